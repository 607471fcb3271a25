//! Records and states as peers and clients write them.

use catalog::{Service, json};

/// Reads `input` as a record, as a state and as a list of records.
pub fn run(input: &[u8]) {
    check_record(&json::decode_service(input));
    for records in [json::decode_state(input), json::decode_records(input)] {
        match records {
            Ok(records) => records.iter().for_each(check_record),
            Err(error) => check_error(&error),
        }
    }
}

fn check_record(record: &Result<Service, json::DecodeError>) {
    match record {
        Ok(service) => reads_back(service),
        Err(error) => check_error(error),
    }
}

fn reads_back(service: &Service) {
    let text = json::encode_service(service);
    let again = json::decode_service(text.as_bytes());
    assert_eq!(again.as_ref().ok(), Some(service), "{text}: {again:?}");
}

fn check_error(error: &json::DecodeError) {
    let text = error.to_string();
    assert!(text.len() < 4096, "{text}");
}
