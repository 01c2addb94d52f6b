//! `envoy.filters.http.grpc_stats`: counts calls and their messages, by cluster and method.
//!
//! Configuration: `envoy.extensions.filters.http.grpc_stats.v3.FilterConfig`. The names are those of
//! Envoy, below `cluster.<name>.grpc.`; methods come from clients, so only so many are told apart.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::{GrpcMethodList, grpc_method_list};
use causeway_xds::proto::envoy::extensions::filters::http::grpc_stats::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, each, not_empty};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::Frame;

use self::proto::filter_config::PerMethodStatSpecifier as Specifier;
use super::super::body::{BodyError, Frames, Transform};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    name: "envoy.filters.http.grpc_stats",
    build,
    per_route: &[],
};

/// Of clusters and methods that are counted by themselves.
const MAX_COUNTED: usize = 1000;
/// Statuses that have a name of their own (0 to 16).
const STATUSES: usize = 17;

#[derive(Debug)]
struct GrpcStats {
    methods: Methods,
    /// Dots in the name of a service become underscores.
    replace_dots: bool,
    context: Context,
    /// Which of all filters of its kind it is.
    id: u64,
    /// By what follows `cluster.`
    counted: RwLock<HashMap<String, Arc<Counts>>>,
}

/// Which methods are told apart.
#[derive(Debug)]
enum Methods {
    None,
    All,
    /// `/service/method`
    These(Vec<String>),
}

#[derive(Debug)]
struct Counts {
    success: Arc<Counter>,
    failure: Arc<Counter>,
    total: Arc<Counter>,
    statuses: [Arc<Counter>; STATUSES],
    requests: Arc<Counter>,
    responses: Arc<Counter>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::FilterConfig {
        // What is counted can be read from the statistics.
        emit_filter_state: _,
        enable_upstream_stats,
        replace_dots_in_grpc_service_name,
        per_method_stat_specifier,
    } = decode(config)?;
    if enable_upstream_stats {
        return Err(Invalid::at("enable_upstream_stats", "not supported yet"));
    }
    let methods = match per_method_stat_specifier {
        None => Methods::None,
        Some(Specifier::StatsForAllMethods(all)) if all.value => Methods::All,
        Some(Specifier::StatsForAllMethods(_)) => Methods::None,
        Some(Specifier::IndividualMethodStatsAllowlist(GrpcMethodList { services })) => {
            let lists = each("services", services, paths);
            let lists = lists.at("individual_method_stats_allowlist")?;
            Methods::These(lists.into_iter().flatten().collect())
        }
    };
    Ok(Arc::new(GrpcStats {
        methods,
        replace_dots: replace_dots_in_grpc_service_name,
        context: context.clone(),
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        counted: RwLock::default(),
    }))
}

fn paths(service: grpc_method_list::Service) -> Result<Vec<String>, Invalid> {
    let grpc_method_list::Service { name, method_names } = service;
    let name = not_empty(name, "name")?;
    if method_names.is_empty() {
        return Err(Invalid::at("method_names", "must not be empty"));
    }
    let path = |method: String| format!("/{name}/{method}");
    Ok(method_names.into_iter().map(path).collect())
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Where the counters of a method are, as the last calls have found out. A call finds its own without a
/// lock and without making up their name; two methods of one place only push each other out.
struct Recent {
    hasher: ahash::RandomState,
    places: Vec<Option<Place>>,
}

struct Place {
    filter: u64,
    cluster: String,
    path: String,
    counts: Arc<Counts>,
}

/// Places of a thread; a power of two.
const PLACES: usize = 256;
/// Of a path that is worth a place.
const MAX_PATH: usize = 256;

thread_local! {
    static RECENT: RefCell<Recent> = RefCell::new(Recent {
        hasher: ahash::RandomState::new(),
        places: (0..PLACES).map(|_| None).collect(),
    });
}

impl GrpcStats {
    fn counts(&self, cluster: &str, path: &str) -> Arc<Counts> {
        if path.len() > MAX_PATH {
            return self.find(cluster, path);
        }
        RECENT.with_borrow_mut(|recent| {
            let hash = recent.hasher.hash_one((self.id, cluster, path));
            // The remainder is small.
            let place = &mut recent.places[(hash % PLACES as u64) as usize];
            if let Some(known) = place
                && known.filter == self.id
                && known.cluster == cluster
                && known.path == path
            {
                return Arc::clone(&known.counts);
            }
            let counts = self.find(cluster, path);
            *place = Some(Place {
                filter: self.id,
                cluster: cluster.to_owned(),
                path: path.to_owned(),
                counts: Arc::clone(&counts),
            });
            counts
        })
    }

    fn find(&self, cluster: &str, path: &str) -> Arc<Counts> {
        let told_apart = match &self.methods {
            Methods::None => false,
            Methods::All => true,
            Methods::These(these) => these.iter().any(|these| these == path),
        };
        let method = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let named = method.filter(|_| told_apart).map(|(service, method)| {
            let service = match self.replace_dots {
                true => service.replace('.', "_"),
                false => service.to_owned(),
            };
            format!("{cluster}.grpc.{service}.{method}.")
        });
        let all = || format!("{cluster}.grpc.");
        self.named(named.unwrap_or_else(all))
            .unwrap_or_else(|| Arc::new(Counts::new(&self.context, &all())))
    }

    fn named(&self, name: String) -> Option<Arc<Counts>> {
        let counted = self.counted.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = counted.get(&name) {
            return Some(Arc::clone(counts));
        }
        drop(counted);
        let mut counted = self.counted.write().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= MAX_COUNTED && !counted.contains_key(&name) {
            return None;
        }
        let counts = Counts::new(&self.context, &name);
        Some(Arc::clone(
            counted.entry(name).or_insert_with(|| Arc::new(counts)),
        ))
    }
}

impl Counts {
    fn new(context: &Context, name: &str) -> Self {
        let scope = format!("cluster.{name}");
        let counter = |name: &str| context.counter_in(&scope, name);
        Self {
            success: counter("success"),
            failure: counter("failure"),
            total: counter("total"),
            statuses: std::array::from_fn(|status| counter(&status.to_string())),
            requests: counter("request_message_count"),
            responses: counter("response_message_count"),
        }
    }

    fn ended(&self, fields: &HeaderMap) {
        let status = fields.get("grpc-status").and_then(|v| v.to_str().ok());
        let Some(status) = status.and_then(|status| status.trim().parse::<usize>().ok()) else {
            return;
        };
        if let Some(counter) = self.statuses.get(status) {
            counter.inc();
        }
        match status {
            0 => self.success.inc(),
            _ => self.failure.inc(),
        }
        self.total.inc();
    }
}

impl HttpFilter for GrpcStats {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let kind = stream.request.headers.get(CONTENT_TYPE);
        let rest = kind.and_then(|k| k.as_bytes().strip_prefix(b"application/grpc"));
        if !rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';'))) {
            return Flow::Continue;
        }
        let counts = self.counts(stream.cluster(), stream.request.uri.path());
        if !stream.is_bodyless() {
            stream.transform_body(Box::new(Watch::new(&counts, true)));
        }
        stream.keep(counts);
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let Some(counts) = answer.kept::<Arc<Counts>>() else {
            return;
        };
        // In an answer of nothing but a head the status is there.
        if answer.headers.contains_key("grpc-status") || answer.bodyless {
            counts.ended(answer.headers);
        } else {
            answer.transform(Box::new(Watch::new(&counts, false)));
        }
    }
}

/// Counts the messages of a body, and at the end of an answer what came of the call.
struct Watch {
    counts: Arc<Counts>,
    of_request: bool,
    /// What is known of the head of the next message (a flag, and the length in four bytes).
    head: Vec<u8>,
    /// Bytes of the present message that are still to come.
    left: usize,
}

const HEAD: usize = 5;

impl Watch {
    fn new(counts: &Arc<Counts>, of_request: bool) -> Self {
        Self {
            counts: Arc::clone(counts),
            of_request,
            head: Vec::with_capacity(HEAD),
            left: 0,
        }
    }

    fn see(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(data.len());
                self.left -= taken;
                data = &data[taken..];
                continue;
            }
            let taken = (HEAD - self.head.len()).min(data.len());
            self.head.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if let [_, a, b, c, d] = self.head[..] {
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.head.clear();
                match self.of_request {
                    true => self.counts.requests.inc(),
                    false => self.counts.responses.inc(),
                }
            }
        }
    }
}

impl Transform for Watch {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.see(&data);
        out.push_back(Frame::data(data));
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        if let Some(trailers) = trailers {
            if !self.of_request {
                self.counts.ended(&trailers);
            }
            out.push_back(Frame::trailers(trailers));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let counts = Arc::new(Counts::new(&Context::default(), "c.grpc."));
        let mut whole = Vec::new();
        for length in [0_u8, 3, 7] {
            whole.extend([0, 0, 0, 0, length]);
            whole.extend(std::iter::repeat_n(b'x', length.into()));
        }
        for size in 1..=whole.len() {
            let before = counts.responses.value();
            let mut watch = Watch::new(&counts, false);
            whole.chunks(size).for_each(|piece| watch.see(piece));
            assert_eq!(counts.responses.value() - before, 3, "pieces of {size}");
        }
    }

    #[test]
    fn what_came_of_a_call_is_counted_once() {
        let counts = Arc::new(Counts::new(&Context::default(), "c.grpc."));
        let mut fields = HeaderMap::new();
        counts.ended(&fields);
        for status in ["0", "14", "99", "odd"] {
            fields.insert("grpc-status", HeaderValue::from_static(status));
            counts.ended(&fields);
        }
        let values = [&counts.success, &counts.failure, &counts.total];
        assert_eq!(values.map(|counter| counter.value()), [1, 2, 3]);
        assert_eq!(counts.statuses[14].value(), 1);
    }

    #[test]
    fn clients_cannot_make_up_names_without_end() {
        let stats = GrpcStats {
            methods: Methods::All,
            replace_dots: true,
            context: Context::default(),
            id: u64::MAX,
            counted: RwLock::default(),
        };
        for n in 0..MAX_COUNTED + 50 {
            stats.counts("c", &format!("/p.S/M{n}"));
        }
        let counted = stats.counted.read().unwrap();
        assert_eq!(counted.len(), MAX_COUNTED);
        assert!(counted.contains_key("c.grpc.p_S.M0."));
    }
}
