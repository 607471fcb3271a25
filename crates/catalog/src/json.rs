//! Go-compatible JSON, the form in which records travel in gossip, push/pull and the HTTP API.
//!
//! Writing follows Go's `encoding/json`: fields in the order of the Go structures, object keys of
//! maps sorted bytewise, `<`, `>`, `&` and U+2028/9 escaped, times as RFC 3339 with trimmed
//! nanoseconds. Reading follows it too: keys match exactly or else case-insensitively, unknown keys
//! are skipped, `null` leaves a field at its zero value, numbers must be whole.

mod decode;
mod encode;

pub use decode::{DecodeError, decode_records, decode_service, decode_state};
pub use encode::{
    encode_by_name, encode_change_event, encode_replica, encode_service, encode_service_list,
    encode_services, encode_state, indent, write_text,
};
