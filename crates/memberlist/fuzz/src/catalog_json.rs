//! Records and states as peers and clients write them.

use catalog::{Service, json};

/// Reads `input` as a record and as a state.
pub fn run(input: &[u8]) {
    match json::decode_service(input) {
        Ok(service) => reads_back(&service),
        Err(error) => check_error(&error),
    }
    match json::decode_state(input) {
        Ok(records) => {
            for record in records {
                match record {
                    Ok(service) => reads_back(&service),
                    Err(error) => check_error(&error),
                }
            }
        }
        Err(error) => check_error(&error),
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
