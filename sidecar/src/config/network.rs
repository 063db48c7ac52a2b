//! What `monitoring.network` says once it has been checked: whether connections are told of, and which.
//!
//! As in [`super::model`], the comments are also the descriptions in the JSON Schema.

use std::{borrow::Cow, ops::RangeInclusive};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// Who connects to whom: every connection is an event. What the filters leave out is not told of and not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default, deny_unknown_fields)]
pub struct Network {
    /// Whether connections are told of.
    pub enabled: bool,
    /// Of which protocols.
    pub protocols: Protocols,
    /// Whether those that watched programs begin, those that others begin with them, or both.
    pub direction: Direction,
    /// Only connections to these ports, each a number or a range such as `"8000-8999"`. Without it, to all.
    #[schemars(length(min = 1))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Only connections whose other end is in one of these networks, IPv4 or IPv6, such as `10.0.0.0/8`. Without it, all.
    #[schemars(with = "Vec<String>", length(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<IpNet>,
    /// Only connections of these containers, each a name or an id of at least 12 digits. Without it, of all programs.
    #[schemars(length(min = 1))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
}

/// Which protocols are told of. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// TCP connections.
    pub tcp: bool,
    /// UDP flows.
    pub udp: bool,
    /// Connections by Unix sockets.
    pub unix: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self {
            tcp: true,
            udp: true,
            unix: false,
        }
    }
}

impl Serialize for Protocols {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let all = [(self.tcp, "tcp"), (self.udp, "udp"), (self.unix, "unix")];
        to.collect_seq(
            all.into_iter()
                .filter_map(|(wanted, name)| wanted.then_some(name)),
        )
    }
}

impl JsonSchema for Protocols {
    fn schema_name() -> Cow<'static, str> {
        "Protocols".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": {"type": "string", "enum": ["tcp", "udp", "unix"]},
            "minItems": 1,
            "uniqueItems": true,
        })
    }
}

/// Who begins the connections that are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Either.
    #[default]
    Both,
    /// A watched program.
    Outbound,
    /// Somebody else, with a watched program.
    Inbound,
}

/// Ports from one to another, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last {
            to.serialize_u16(*first)
        } else {
            to.collect_str(&format_args!("{first}-{last}"))
        }
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"type": "integer", "minimum": 1, "maximum": u16::MAX},
                {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
            ],
        })
    }
}
