//! Every cap on what a peer may make us hold or do. Nothing here is negotiated: a peer that needs
//! more is broken or hostile, since the Go programs stay far below.
//!
//! Two rules go with the numbers: memory is never reserved from a declared size, only from bytes
//! that are present; and decompression checks its cap as it goes (LZW inflates up to 1365-fold).

/// Bytes all compressed parts of one datagram may inflate to, together.
pub const DECOMPRESSED_PACKET_BYTES_MAX: usize = 128 * 1024;

/// Messages taken from one datagram, good and bad ones; the rest is dropped.
pub const MESSAGES_PER_PACKET_MAX: usize = 255;

/// Containers (compound, compress) around a message.
pub const CONTAINER_DEPTH_MAX: usize = 3;

/// Parts we put into one compound. The format has room for 255, but the fork and older HashiCorp
/// versions compute the size of the length table in eight bits and misread 128 or more.
pub const COMPOUND_PARTS_MAX: usize = 127;

/// Bytes of one part of a compound: its length is a `u16`.
pub const COMPOUND_PART_BYTES_MAX: usize = 65_535;

/// Bytes a stream message may inflate to.
pub const DECOMPRESSED_STREAM_BYTES_MAX: usize = 40 * 1024 * 1024;

/// Bytes of an encrypted message on a stream, from its version to its tag.
pub const SEALED_STREAM_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Bytes of a label.
pub const LABEL_BYTES_MAX: usize = 255;

/// Keys in a keyring.
pub const KEYS_MAX: usize = 16;

/// Bytes read from one stream.
pub const STREAM_BYTES_MAX: usize = 40 * 1024 * 1024;

/// Entries of a push/pull table; also never more than the bytes present could hold, see
/// [`PUSH_NODE_BYTES_MIN`].
pub const PUSH_NODES_MAX: usize = 65_536;

/// No valid entry of a push/pull table is shorter, in bytes.
pub const PUSH_NODE_BYTES_MIN: usize = 20;

/// Bytes of application state in a push/pull.
pub const USER_STATE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Bytes of one application message on a stream.
pub const USER_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a node name, and of every other field that holds one.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a node's metadata.
pub const META_BYTES_MAX: usize = 512;

/// Bytes of an ack's payload.
pub const ACK_PAYLOAD_BYTES_MAX: usize = 512;

/// Bytes of the text in an error reply.
pub const ERROR_TEXT_BYTES_MAX: usize = 4096;

/// Maps and arrays inside one another in the value of a msgpack field.
pub const MSGPACK_DEPTH_MAX: usize = 16;

// A node's whole table and state must fit the stream they travel in.
const _: () = assert!(PUSH_NODES_MAX * PUSH_NODE_BYTES_MIN < DECOMPRESSED_STREAM_BYTES_MAX);
const _: () = assert!(USER_STATE_BYTES_MAX < DECOMPRESSED_STREAM_BYTES_MAX);
const _: () = assert!(USER_MESSAGE_BYTES_MAX < USER_STATE_BYTES_MAX);
const _: () = assert!(COMPOUND_PARTS_MAX < 128 && MESSAGES_PER_PACKET_MAX <= u8::MAX as usize);
