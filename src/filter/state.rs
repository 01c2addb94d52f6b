//! What filters leave behind of a stream or a connection, for themselves, for one another, and for
//! the log.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::tlv::Tlv;

use super::HttpFilter;
use crate::net::Source;
use crate::telemetry::activity::ActivityGuard;

/// One per stream, and one per connection, whose streams see what it has. Small, because every
/// request has one, and most leave it as it is.
#[derive(Default)]
pub struct StreamState {
    /// That of the connection, if there is anything in it.
    connection: Option<Rc<StreamState>>,
    /// Says that a circuit is in use, until the exchange has ended.
    usage: Cell<Option<ActivityGuard>>,
    known: OnceCell<Box<Known>>,
}

/// The filter that was chosen, or that none is to act.
pub(super) type Choice = Option<Arc<dyn HttpFilter>>;

#[derive(Default)]
struct Known {
    /// By the place of the filter in its chain.
    kept: RefCell<Vec<(usize, Rc<dyn Any>)>>,
    /// By the place in the chain: the filter that was chosen there, if any was.
    chosen: RefCell<Vec<(usize, Choice)>>,
    /// Dynamic metadata by namespace.
    metadata: RefCell<BTreeMap<String, Rc<MetadataValue>>>,
    /// Filter state that is text.
    values: RefCell<BTreeMap<String, Rc<str>>>,
    /// Filter state that is not.
    objects: RefCell<BTreeMap<&'static str, Rc<MetadataValue>>>,
    /// The endpoint that a request has to go to.
    endpoint: Cell<Option<WantedEndpoint>>,
    bridge: Cell<Option<Bridge>>,
    takes_trailers: Cell<bool>,
    /// What a filter has left that had another request answered in the place of the client's.
    stands_in: OnceCell<Rc<dyn Any>>,
    /// Whom connections to endpoints are to come from.
    source: Cell<Option<Source>>,
    /// Of the PROXY protocol header that the connection came with.
    tlvs: OnceCell<Box<[Tlv]>>,
}

/// The upstream speaks TCP, and the client is to speak to it in the messages of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Bytes of the largest message that a client may send.
    pub max_message: usize,
    /// See [`crate::net::websocket::Rules::ping`].
    pub ping: Duration,
    /// Whether the log tells of it once it has ended.
    pub log: bool,
}

/// An endpoint that a filter has chosen (`override_host`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedEndpoint {
    pub address: SocketAddr,
    /// No other will do.
    pub strict: bool,
}

impl fmt::Debug for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What filters know may be secret.
        let known = self.known.get().is_some();
        f.debug_struct("StreamState")
            .field("known", &known)
            .finish_non_exhaustive()
    }
}

impl StreamState {
    /// For a stream of a connection.
    pub fn within(connection: &Rc<Self>) -> Self {
        let known = connection.known.get().is_some();
        Self {
            connection: known.then(|| Rc::clone(connection)),
            ..Self::default()
        }
    }

    pub fn use_circuit(&self, guard: ActivityGuard) {
        self.usage.set(Some(guard));
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(Box::default)
    }

    pub(super) fn keep(&self, place: usize, value: Rc<dyn Any>) {
        let mut kept = self.known().kept.borrow_mut();
        kept.retain(|(of, _)| *of != place);
        kept.push((place, value));
    }

    pub(super) fn kept<T: Any>(&self, place: usize) -> Option<Rc<T>> {
        let kept = self.known.get()?.kept.borrow();
        let (_, value) = kept.iter().find(|(of, _)| *of == place)?;
        Rc::clone(value).downcast().ok()
    }

    pub(super) fn choose(&self, place: usize, filter: Choice) {
        let mut chosen = self.known().chosen.borrow_mut();
        chosen.retain(|(of, _)| *of != place);
        chosen.push((place, filter));
    }

    /// `None`: nothing was chosen there, and not that nothing was to be done.
    pub(super) fn chosen(&self, place: usize) -> Option<Choice> {
        let chosen = self.known.get()?.chosen.borrow();
        let found = chosen.iter().find(|(of, _)| *of == place);
        found.map(|(_, filter)| filter.clone())
    }

    /// Adds to a namespace; what has the same key is replaced.
    pub fn set_metadata(&self, namespace: &str, key: &str, value: MetadataValue) {
        let mut all = self.known().metadata.borrow_mut();
        let before = all.remove(namespace);
        let before = before.or_else(|| self.connection.as_ref()?.metadata(namespace));
        let mut fields = match before.as_deref() {
            Some(MetadataValue::Object(fields)) => fields.clone(),
            _ => Vec::new(),
        };
        fields.retain(|(name, _)| name != key);
        // Objects are sorted.
        let place = fields.partition_point(|(name, _)| name.as_str() < key);
        fields.insert(place, (key.to_owned(), value));
        all.insert(namespace.to_owned(), Rc::new(MetadataValue::Object(fields)));
    }

    pub fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        let own = |known: &Known| known.metadata.borrow().get(namespace).cloned();
        let own = self.known.get().and_then(|known| own(known));
        own.or_else(|| self.connection.as_ref()?.metadata(namespace))
    }

    /// All namespaces, those of the connection among them.
    pub fn namespaces(&self) -> BTreeMap<String, Rc<MetadataValue>> {
        let mut all = match &self.connection {
            Some(connection) => connection.namespaces(),
            None => BTreeMap::new(),
        };
        if let Some(known) = self.known.get() {
            let own = known.metadata.borrow();
            all.extend(
                own.iter()
                    .map(|(name, value)| (name.clone(), Rc::clone(value))),
            );
        }
        all
    }

    pub fn set_value(&self, key: &str, value: &str) {
        let value = Rc::from(value);
        let mut values = self.known().values.borrow_mut();
        values.insert(key.to_owned(), value);
    }

    pub fn value(&self, key: &str) -> Option<Rc<str>> {
        let own = |known: &Known| known.values.borrow().get(key).cloned();
        let own = self.known.get().and_then(|known| own(known));
        own.or_else(|| self.connection.as_ref()?.value(key))
    }

    pub fn set_object(&self, key: &'static str, value: MetadataValue) {
        let mut objects = self.known().objects.borrow_mut();
        objects.insert(key, Rc::new(value));
    }

    pub fn object(&self, key: &str) -> Option<Rc<MetadataValue>> {
        let own = |known: &Known| known.objects.borrow().get(key).cloned();
        let own = self.known.get().and_then(|known| own(known));
        own.or_else(|| self.connection.as_ref()?.object(key))
    }

    /// Says that the connection came with a PROXY protocol header, and what of its extensions
    /// endpoints may be told. A second header has no say.
    pub fn set_tlvs(&self, tlvs: Vec<Tlv>) {
        self.known().tlvs.set(tlvs.into()).ok();
    }

    /// `None`: it came without a header.
    pub fn tlvs(&self) -> Option<&[Tlv]> {
        self.known.get()?.tlvs.get().map(|tlvs| &**tlvs)
    }

    pub fn set_source(&self, source: Source) {
        self.known().source.set(Some(source));
    }

    /// Whom connections to endpoints are to come from; `None`: from here.
    pub fn source(&self) -> Option<Source> {
        let own = self.known.get().and_then(|known| known.source.get());
        own.or_else(|| self.connection.as_ref()?.source())
    }

    pub fn want_endpoint(&self, endpoint: WantedEndpoint) {
        self.known().endpoint.set(Some(endpoint));
    }

    pub fn bridge_to_tcp(&self, bridge: Bridge) {
        self.known().bridge.set(Some(bridge));
    }

    pub fn bridge(&self) -> Option<Bridge> {
        self.known.get()?.bridge.get()
    }

    /// A filter turns the trailers of the answer, which is gRPC, into what the client understands.
    pub fn take_trailers(&self) {
        self.known().takes_trailers.set(true);
    }

    pub fn takes_trailers(&self) -> bool {
        let known = self.known.get();
        known.is_some_and(|known| known.takes_trailers.get())
    }

    /// This stream is about another request than the client's, by the will of a filter, which has
    /// left this.
    pub fn stands_in(&self) -> Option<Rc<dyn Any>> {
        self.known.get()?.stands_in.get().cloned()
    }

    /// Once; what is there stays.
    pub fn stand_in(&self, mark: Rc<dyn Any>) {
        let _ = self.known().stands_in.set(mark);
    }

    pub fn wanted_endpoint(&self) -> Option<WantedEndpoint> {
        self.known.get()?.endpoint.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_keeps_its_other_keys_and_stays_sorted() {
        let state = StreamState::default();
        let text = |t: &str| MetadataValue::Text(t.to_owned());
        state.set_metadata("n", "b", text("1"));
        state.set_metadata("n", "a", text("2"));
        state.set_metadata("n", "b", text("3"));
        let expected = vec![("a".to_owned(), text("2")), ("b".to_owned(), text("3"))];
        assert_eq!(
            state.metadata("n").as_deref(),
            Some(&MetadataValue::Object(expected))
        );
        assert_eq!(state.metadata("m"), None);
    }

    #[test]
    fn streams_see_what_their_connection_has_and_keep_their_own_to_themselves() {
        let connection = Rc::new(StreamState::default());
        let bare = StreamState::within(&connection);
        let text = |t: &str| MetadataValue::Text(t.to_owned());
        connection.set_metadata("n", "a", text("1"));
        connection.set_value("k", "of the connection");
        assert_eq!(bare.value("k"), None, "set later, for streams to come");
        let stream = StreamState::within(&connection);
        assert_eq!(stream.value("k").as_deref(), Some("of the connection"));
        stream.set_value("k", "own");
        stream.set_metadata("n", "b", text("2"));
        let expected = vec![("a".to_owned(), text("1")), ("b".to_owned(), text("2"))];
        let found = stream.metadata("n");
        assert_eq!(found.as_deref(), Some(&MetadataValue::Object(expected)));
        assert_eq!(stream.value("k").as_deref(), Some("own"));
        let other = StreamState::within(&connection);
        assert_eq!(other.value("k").as_deref(), Some("of the connection"));
    }

    #[test]
    fn what_a_filter_keeps_is_its_own() {
        let state = StreamState::default();
        state.keep(1, Rc::new(7_u32));
        state.keep(2, Rc::new("x"));
        state.keep(1, Rc::new(8_u32));
        assert_eq!(state.kept::<u32>(1).as_deref(), Some(&8));
        assert_eq!(state.kept::<u32>(2), None);
    }
}
