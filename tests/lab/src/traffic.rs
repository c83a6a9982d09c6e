//! Real clients and servers in pods. Servers listen when they are returned, and stop when they are dropped.

mod clients;
mod dns;
mod flood;
mod http;

pub use self::clients::{CurlOutput, PingReport};
pub use self::dns::{DnsRecords, DnsServer, RecordType};
pub use self::flood::{Flood, UdpSink};
pub use self::http::HttpServer;
