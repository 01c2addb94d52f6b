//! Bodies of pushes. A body may come in several forms; which one is meant is told before it is
//! read, so that an error is about the form that was meant and has its line and column.

use axum::body::to_bytes;
use axum::extract::Request;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::problem::Problem;
use crate::coordinator::PushError;
use crate::coordinator::model::Circuit;
use crate::coordinator::wire::{WireCircuit, WireRoute};

/// A full set of 100,000 circuits fits.
const MAX_BODY: usize = 160 << 20;

/// A list of circuits, `{"circuits": [...]}`, or one circuit.
pub struct Push {
    circuits: Vec<WireCircuit>,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    List,
    Single,
}

impl Push {
    /// Validates each circuit, and takes them out; what [`Push::rename`] needs stays.
    pub fn check(&mut self) -> Result<Vec<Circuit>, Problem> {
        let circuits = std::mem::take(&mut self.circuits).into_iter().enumerate();
        let check = |(i, circuit): (usize, WireCircuit)| {
            Circuit::try_from(circuit).map_err(|fault| {
                let fault = fault.within(&format!("circuits[{i}]"));
                self.rename(PushError::Invalid(fault)).into()
            })
        };
        circuits.map(check).collect()
    }

    /// Faults name `circuits[0].port`; to a caller who sent one circuit that is `port`.
    pub fn rename(&self, mut error: PushError) -> PushError {
        if let (Form::Single, PushError::Invalid(fault) | PushError::Conflict(fault)) =
            (self.form, &mut error)
            && let Some(field) = fault.field.strip_prefix("circuits[0].")
        {
            fault.field = field.to_owned();
        }
        error
    }
}

/// A list of kernel routes, or `{"route_info": [...]}`.
pub struct Routes(pub Vec<WireRoute>);

pub trait Parse: Sized {
    fn parse(body: &[u8]) -> serde_json::Result<Self>;
}

impl Parse for Push {
    fn parse(body: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Probe {
            circuits: Option<IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Named {
            circuits: Vec<WireCircuit>,
        }
        let (circuits, form) = if is_list(body) {
            (serde_json::from_slice(body)?, Form::List)
        } else if serde_json::from_slice::<Probe>(body)?.circuits.is_some() {
            (serde_json::from_slice::<Named>(body)?.circuits, Form::List)
        } else {
            (vec![serde_json::from_slice(body)?], Form::Single)
        };
        Ok(Self { circuits, form })
    }
}

impl Parse for Routes {
    fn parse(body: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(alias = "route-info")]
            route_info: Vec<WireRoute>,
        }
        if is_list(body) {
            serde_json::from_slice(body).map(Self)
        } else {
            serde_json::from_slice::<Named>(body).map(|named| Self(named.route_info))
        }
    }
}

fn is_list(body: &[u8]) -> bool {
    body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[')
}

/// Reads the whole body of a request. The content type is not looked at: nothing but JSON is
/// ever meant, and `curl -d` says that it is a form.
pub async fn read<T: Parse>(request: Request) -> Result<T, Problem> {
    let body = to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|error| Problem::unread_body(&error, MAX_BODY))?;
    T::parse(&body).map_err(|error| Problem::bad_json(&error))
}
