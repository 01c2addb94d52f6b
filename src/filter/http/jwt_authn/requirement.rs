//! What a request must show, and whether it does.

use std::collections::HashMap;

use causeway_xds::proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, each, fault, required};
use http::Uri;
use http::header::HeaderMap;
use proto::jwt_requirement::RequiresType;

use super::keys::Keys;
use super::provider::Provider;
use super::status::Status;
use super::token::Token;

/// How deep requirements may be within each other.
const MAX_DEPTH: usize = 32;

/// `envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement`. Providers are places in a list.
#[derive(Debug)]
pub enum Requirement {
    /// A token of one provider; all tokens that are in its places must be good.
    Provider {
        provider: usize,
        /// Instead of those of the provider.
        audiences: Option<Vec<String>>,
        pass: Pass,
    },
    /// Of all providers, by the issuer of a token; one good token is enough.
    Anyone(Pass),
    Any(Vec<Self>),
    All(Vec<Self>),
}

/// What passes besides good tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    #[default]
    Nothing,
    /// `allow_missing`
    Missing,
    /// `allow_missing_or_failed`
    MissingOrFailed,
}

/// A good token.
#[derive(Debug)]
pub struct Good {
    pub provider: usize,
    /// A provider, and the place among its places; not always those of `provider`.
    pub place: (usize, usize),
    pub token: Token,
}

/// What came of a request's tokens.
#[derive(Debug, Default)]
pub struct Found {
    pub good: Vec<Good>,
    /// Providers whose tokens failed, and why.
    pub failed: Vec<(usize, Status)>,
}

/// What is looked at.
pub struct Request<'r> {
    pub headers: &'r HeaderMap,
    pub uri: &'r Uri,
    /// Seconds since 1970.
    pub now: u64,
}

/// Keys, as far as they are there.
pub trait KeyRing {
    /// # Errors
    /// There are none, and there will not be any for this request ([`NoKeys::Failed`]), or they
    /// have to be fetched.
    fn verify(&self, provider: usize, check: &dyn Fn(&Keys) -> Verdict) -> Result<Verdict, NoKeys>;
}

pub type Verdict = Result<(), Status>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKeys {
    Failed,
    Fetch,
}

/// Why there is no answer, or what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Denied(Status),
    /// The keys of a provider are needed first.
    Fetch(usize),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Denied(status)
    }
}

impl Requirement {
    /// `None`: nothing is required.
    pub fn decode(
        message: proto::JwtRequirement,
        providers: &HashMap<String, usize>,
    ) -> Result<Option<Self>, Invalid> {
        Self::within(message, providers, Pass::Nothing, 0)
    }

    fn within(
        message: proto::JwtRequirement,
        providers: &HashMap<String, usize>,
        pass: Pass,
        depth: usize,
    ) -> Result<Option<Self>, Invalid> {
        let find = |name: &str| {
            let unknown = || fault(format!("there is no provider {name:?}"));
            providers.get(name).copied().ok_or_else(unknown)
        };
        if depth > MAX_DEPTH {
            return Err(fault(format!("is more than {MAX_DEPTH} levels deep")));
        }
        let proto::JwtRequirement { requires_type } = message;
        let Some(requires) = requires_type else {
            return Ok(None);
        };
        Ok(Some(match requires {
            RequiresType::ProviderName(name) => Self::Provider {
                provider: find(&name).at("provider_name")?,
                audiences: None,
                pass,
            },
            RequiresType::ProviderAndAudiences(proto::ProviderWithAudiences {
                provider_name,
                audiences,
            }) => Self::Provider {
                provider: find(&provider_name)
                    .at("provider_name")
                    .at("provider_and_audiences")?,
                audiences: Some(audiences),
                pass,
            },
            RequiresType::RequiresAny(proto::JwtRequirementOrList { requirements }) => {
                Self::any(requirements, providers, pass, depth).at("requires_any")?
            }
            RequiresType::RequiresAll(proto::JwtRequirementAndList { requirements }) => {
                at_least_two(&requirements).at("requires_all")?;
                let all = each("requirements", requirements, |r| {
                    Self::within(r, providers, pass, depth + 1)
                });
                Self::All(all.at("requires_all")?.into_iter().flatten().collect())
            }
            RequiresType::AllowMissing(_) => Self::Anyone(Pass::Missing),
            RequiresType::AllowMissingOrFailed(_) => Self::Anyone(Pass::MissingOrFailed),
            RequiresType::ExtractOnlyWithoutValidation(_) => {
                let field = "extract_only_without_validation";
                return Err(Invalid::at(field, "not supported yet"));
            }
        }))
    }

    /// What may be missing may be so for each of the others.
    fn any(
        requirements: Vec<proto::JwtRequirement>,
        providers: &HashMap<String, usize>,
        outer: Pass,
        depth: usize,
    ) -> Result<Self, Invalid> {
        at_least_two(&requirements)?;
        let mut pass = outer;
        for requirement in &requirements {
            match requirement.requires_type {
                Some(RequiresType::AllowMissingOrFailed(_)) => pass = Pass::MissingOrFailed,
                Some(RequiresType::AllowMissing(_)) if pass == Pass::Nothing => {
                    pass = Pass::Missing;
                }
                _ => {}
            }
        }
        let decoded = each(
            "requirements",
            requirements,
            |requirement| match &requirement.requires_type {
                Some(RequiresType::AllowMissing(_) | RequiresType::AllowMissingOrFailed(_)) => {
                    Ok(None)
                }
                _ => {
                    let inner = Self::within(requirement, providers, pass, depth + 1)?;
                    required(inner, "requires_type").map(Some)
                }
            },
        )?;
        let list: Vec<Self> = decoded.into_iter().flatten().collect();
        Ok(match list.is_empty() {
            true => Self::Anyone(pass),
            false => Self::Any(list),
        })
    }

    /// # Errors
    /// It is not met, or that cannot be said yet.
    pub fn check(
        &self,
        request: &Request<'_>,
        providers: &[Provider],
        keys: &impl KeyRing,
        found: &mut Found,
    ) -> Result<(), Stop> {
        match self {
            Self::Provider {
                provider,
                audiences,
                pass,
            } => {
                let allowed = audiences.as_deref();
                let of = One {
                    request,
                    providers,
                    keys,
                };
                let checked = of.provider(*provider, allowed, found);
                of.or_pass(checked, *pass, Some(*provider), found)
            }
            Self::Anyone(pass) => {
                let of = One {
                    request,
                    providers,
                    keys,
                };
                let checked = of.anyone(*pass, found);
                of.or_pass(checked, *pass, None, found)
            }
            Self::All(list) => {
                for requirement in list {
                    requirement.check(request, providers, keys, found)?;
                }
                Ok(())
            }
            Self::Any(list) => {
                let mut told = None;
                for requirement in list {
                    match requirement.check(request, providers, keys, found) {
                        Err(Stop::Denied(status)) => {
                            if told.is_none_or(|told: Status| told.weight() <= status.weight()) {
                                told = Some(status);
                            }
                        }
                        done => return done,
                    }
                }
                Err(told.unwrap_or(Status::Missing).into())
            }
        }
    }
}

/// The bound of the message definition.
fn at_least_two(requirements: &[proto::JwtRequirement]) -> Result<(), Invalid> {
    match requirements.len() {
        0 | 1 => Err(Invalid::at("requirements", "must be two or more")),
        _ => Ok(()),
    }
}

/// One look at a request.
struct One<'c, K> {
    request: &'c Request<'c>,
    providers: &'c [Provider],
    keys: &'c K,
}

impl<K: KeyRing> One<'_, K> {
    fn or_pass(
        &self,
        checked: Result<(), Stop>,
        pass: Pass,
        provider: Option<usize>,
        found: &mut Found,
    ) -> Result<(), Stop> {
        let Err(Stop::Denied(status)) = checked else {
            return checked;
        };
        if let Some(provider) = provider
            && status != Status::Missing
        {
            found.failed.push((provider, status));
        }
        match pass {
            Pass::MissingOrFailed => Ok(()),
            Pass::Missing if status == Status::Missing => Ok(()),
            _ => checked,
        }
    }

    /// From the last place to the first, all must be good.
    fn provider(
        &self,
        provider: usize,
        audiences: Option<&[String]>,
        found: &mut Found,
    ) -> Result<(), Stop> {
        let places = self.providers[provider].places.iter().enumerate();
        let mut any = false;
        for (place, at) in places.rev() {
            let Some(text) = at.token(self.request.headers, self.request.uri) else {
                continue;
            };
            any = true;
            let token = Token::parse(text)?;
            let issuer = &self.providers[provider].issuer;
            if !issuer.is_empty() && *issuer != token.issuer {
                return Err(Status::UnknownIssuer.into());
            }
            self.verify(provider, &token, audiences)?;
            found.good.push(Good {
                provider,
                place: (provider, place),
                token,
            });
        }
        match any {
            true => Ok(()),
            false => Err(Status::Missing.into()),
        }
    }

    /// In the places of all providers; the issuer says which one's keys count.
    fn anyone(&self, pass: Pass, found: &mut Found) -> Result<(), Stop> {
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (provider, of) in self.providers.iter().enumerate() {
            places.extend((0..of.places.len()).map(|place| (provider, place)));
        }
        let at = |(provider, place): (usize, usize)| &self.providers[provider].places[place];
        places.sort_by(|a, b| at(*a).cmp(at(*b)));
        places.reverse();
        let mut last = Status::Missing;
        let mut good = false;
        for group in places.chunk_by(|a, b| at(*a) == at(*b)) {
            let Some(text) = at(group[0]).token(self.request.headers, self.request.uri) else {
                continue;
            };
            match self.of_group(group, text, found) {
                Ok(()) if pass == Pass::Missing => return Ok(()),
                Ok(()) => good = true,
                Err(Stop::Denied(status)) => last = status,
                Err(fetch) => return Err(fetch),
            }
        }
        match good {
            true => Ok(()),
            false => Err(last.into()),
        }
    }

    /// A token in a place that several providers may share.
    fn of_group(
        &self,
        group: &[(usize, usize)],
        text: String,
        found: &mut Found,
    ) -> Result<(), Stop> {
        let token = Token::parse(text)?;
        let issuer = |(provider, _): &&(usize, usize)| &self.providers[*provider].issuer;
        let here = |at: &&(usize, usize)| issuer(at).is_empty() || *issuer(at) == token.issuer;
        if !group.iter().any(|at| here(&at)) {
            return Err(Status::UnknownIssuer.into());
        }
        let by_issuer = self.providers.iter().position(|p| p.issuer == token.issuer);
        let provider = by_issuer.ok_or(Status::UnknownIssuer)?;
        if let Err(stop) = self.verify(provider, &token, None) {
            if let Stop::Denied(status) = stop {
                found.failed.push((provider, status));
            }
            return Err(stop);
        }
        found.good.push(Good {
            provider,
            place: group[0],
            token,
        });
        Ok(())
    }

    fn verify(
        &self,
        provider: usize,
        token: &Token,
        audiences: Option<&[String]>,
    ) -> Result<(), Stop> {
        self.providers[provider].check(token, audiences, self.request.now)?;
        match self.keys.verify(provider, &|keys| keys.verify(token)) {
            Ok(verdict) => Ok(verdict?),
            Err(NoKeys::Failed) => Err(Status::FetchFailed.into()),
            Err(NoKeys::Fetch) => Err(Stop::Fetch(provider)),
        }
    }
}
