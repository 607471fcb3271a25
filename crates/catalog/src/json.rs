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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Status, service::tests::service};

    #[test]
    fn a_weight_travels_and_its_absence_leaves_no_trace() {
        let mut record = service("a", "1", 1, Status::Alive);
        assert!(!encode_service(&record).contains("Weight"));
        record.weight = Some(30);
        let text = encode_service(&record);
        assert!(text.ends_with(r#""Status":0,"Weight":30}"#), "{text}");
        assert_eq!(decode_service(text.as_bytes()).unwrap(), record);
        for odd in ["0", "256", "-1", "\"x\"", "null", "1.5"] {
            let text = text.replace(":30}", &format!(":{odd}}}"));
            let read = decode_service(text.as_bytes()).unwrap();
            assert_eq!(read.weight, None, "{odd}");
        }
    }
}
