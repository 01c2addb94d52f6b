//! `layered_runtime`: values by dotted key, later layers over earlier ones.

use std::collections::BTreeMap;

use causeway_xds::proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use causeway_xds::proto::envoy::config::bootstrap::v3::{self as proto};
use causeway_xds::proto::google::protobuf::value::Kind;
use causeway_xds::proto::{Struct, google};
use causeway_xds::reject::{FieldPath, Invalid};

/// The layers in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    pub layers: Vec<RuntimeLayer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeLayer {
    pub name: String,
    /// By dotted key. An `admin_layer` has none from the start.
    pub values: BTreeMap<String, String>,
    /// Whether it is the one that the management port writes to.
    pub admin: bool,
}

impl Runtime {
    pub(super) fn read(message: Option<proto::LayeredRuntime>) -> Result<Self, Invalid> {
        let proto::LayeredRuntime { layers } = message.unwrap_or_default();
        let mut read: Vec<RuntimeLayer> = Vec::with_capacity(layers.len());
        for (i, layer) in layers.into_iter().enumerate() {
            let at = FieldPath::root().field("layered_runtime.layers").index(i);
            let layer = RuntimeLayer::read(layer).map_err(|e| e.within(&at))?;
            if read.iter().any(|other| other.name == layer.name) {
                return Err(Invalid::new(at.field("name"), "is the name of two layers"));
            }
            read.push(layer);
        }
        Ok(Self { layers: read })
    }

    /// The value in force.
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut by_force = self.layers.iter().rev();
        by_force.find_map(|layer| layer.values.get(key).map(String::as_str))
    }

    /// Every key with its value in force.
    pub fn flattened(&self) -> BTreeMap<String, String> {
        let all = self.layers.iter().flat_map(|layer| &layer.values);
        all.map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

impl RuntimeLayer {
    fn read(message: proto::RuntimeLayer) -> Result<Self, Invalid> {
        let proto::RuntimeLayer {
            name,
            layer_specifier,
        } = message;
        if name.is_empty() {
            return Err(Invalid::at("name", "must not be empty"));
        }
        let mut values = BTreeMap::new();
        let admin = matches!(layer_specifier, Some(LayerSpecifier::AdminLayer(_)));
        match layer_specifier {
            Some(LayerSpecifier::StaticLayer(layer)) => flatten("", layer, &mut values),
            Some(LayerSpecifier::AdminLayer(proto::runtime_layer::AdminLayer {})) => {}
            Some(LayerSpecifier::DiskLayer(_)) => return Err(unsupported("disk_layer")),
            Some(LayerSpecifier::RtdsLayer(_)) => return Err(unsupported("rtds_layer")),
            None => return Err(Invalid::at("layer_specifier", "must be given")),
        }
        Ok(Self {
            name,
            values,
            admin,
        })
    }
}

fn unsupported(field: &str) -> Invalid {
    Invalid::unsupported(FieldPath::root().field(field))
}

/// A map below a key continues the key, unless it is a fractional percent, which is one value.
fn flatten(prefix: &str, layer: Struct, values: &mut BTreeMap<String, String>) {
    for (key, value) in layer.fields {
        let key = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match value.kind {
            Some(Kind::StructValue(inner)) if !inner.fields.contains_key("numerator") => {
                flatten(&key, inner, values);
            }
            Some(kind) => {
                values.insert(key, show(kind));
            }
            None => {}
        }
    }
}

fn show(kind: Kind) -> String {
    let inner = |value: google::protobuf::Value| value.kind.map(show).unwrap_or_default();
    match kind {
        Kind::NullValue(_) => String::new(),
        Kind::NumberValue(number) => number.to_string(),
        Kind::StringValue(text) => text,
        Kind::BoolValue(flag) => flag.to_string(),
        Kind::StructValue(map) => {
            let sorted: BTreeMap<_, _> = map.fields.into_iter().collect();
            let pairs = sorted
                .into_iter()
                .map(|(k, v)| format!("{k}: {}", inner(v)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Kind::ListValue(list) => {
            let items = list.values.into_iter().map(inner);
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
    }
}
