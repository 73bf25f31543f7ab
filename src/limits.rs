//! Every bound on what a client can make grow, in one place.
//!
//! Numbers that S3 documents say so; the others are ours and stand in `docs/limits.md`.

/// Longest key, in UTF-8 bytes (S3).
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest object and largest multipart object: 5 TiB (S3).
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Largest body of one PutObject or UploadPart: 5 GiB (S3).
pub const PUT_BYTES_MAX: u64 = 5 << 30;
/// Smallest part that is not the last one: 5 MiB (S3).
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// Highest part number (S3).
pub const PART_NUMBER_MAX: u32 = 10_000;
/// Keys and common prefixes in one page of a listing, parts and uploads alike (S3).
pub const LIST_ITEMS_MAX: usize = 1000;
/// Keys in one DeleteObjects request (S3).
pub const DELETE_KEYS_MAX: usize = 1000;
/// User metadata of one object: sum of the bytes of names and values (S3).
pub const USER_METADATA_BYTES_MAX: usize = 2048;

/// Tags of one object, and of one bucket (S3).
pub const OBJECT_TAGS_MAX: usize = 10;
pub const BUCKET_TAGS_MAX: usize = 50;
/// Characters of a tag's key, and of its value (S3).
pub const TAG_KEY_CHARS_MAX: usize = 128;
pub const TAG_VALUE_CHARS_MAX: usize = 256;
/// Fields of a form before its file, names and values together (S3).
pub const POST_FIELDS_BYTES_MAX: usize = 20 << 10;
/// Lifecycle rules of one bucket (S3).
pub const LIFECYCLE_RULES_MAX: usize = 1000;
/// CORS rules of one bucket, and the bytes of their document (S3).
pub const CORS_RULES_MAX: usize = 100;
pub const CORS_XML_BYTES_MAX: usize = 64 << 10;

/// Request line and headers together; checked after parsing, before anything else looks at them.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of one request.
pub const HEADERS_MAX: usize = 100;
/// What the HTTP/1 parser may buffer of one connection; larger than a head so that an
/// over-long head is answered by us, with an error body.
pub const CONN_BUFFER_BYTES_MAX: usize = 64 << 10;
/// XML request bodies other than DeleteObjects and CompleteMultipartUpload.
pub const XML_BYTES_MAX: usize = 1 << 20;
/// DeleteObjects: 1,000 keys of 1,024 bytes, each byte escaped, and the markup around them.
pub const DELETE_XML_BYTES_MAX: usize = 8 << 20;
/// CompleteMultipartUpload: 10,000 parts with an ETag and a checksum each.
pub const COMPLETE_XML_BYTES_MAX: usize = 4 << 20;
/// Nesting of elements in an XML body.
pub const XML_DEPTH_MAX: usize = 16;
/// Elements of an XML body: enough for 10,000 parts with all that S3 knows of a part.
pub const XML_ELEMENTS_MAX: usize = 128 << 10;
/// Bytes of an XML body for each of its elements, on average: bodies with more elements are
/// refused, so that a body's length says how much memory it takes. `<a>1</a>` has them.
pub const XML_ELEMENT_BYTES_MIN: usize = 8;
/// What one element takes in memory once it is read, beside its text.
pub const XML_ELEMENT_MEMORY_BYTES: usize = 240;
/// How often the bytes of an XML body are in memory, at most: the body, its text in the tree (in
/// buffers that double), what the verb keeps of it, and a reply that repeats it with each byte
/// escaped as six. Not all of them at once.
pub const XML_COPIES_MAX: usize = 8;
/// What one key or common prefix of a listing takes, the entry and its lines with each of the key's
/// bytes escaped as six.
pub const LIST_ITEM_MEMORY_BYTES: usize = 8 << 10;
/// The same for what is not named by a key: a part, a bucket.
pub const LIST_SHORT_ITEM_MEMORY_BYTES: usize = 512;
/// Extension bytes and digits of one aws-chunked chunk header line.
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// All trailer lines of one aws-chunked body.
pub const TRAILER_BYTES_MAX: usize = 8 << 10;
/// A bucket's whole configuration as the engines store it, all its documents included.
pub const BUCKET_CONFIG_BYTES_MAX: usize = 384 << 10;
/// Presigned requests live at most this long: 7 days (S3).
pub const PRESIGN_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Difference allowed between a signed request's time and ours: 15 minutes (S3).
pub const CLOCK_SKEW_SECONDS_MAX: u64 = 15 * 60;

/// A policy document, of a bucket or of a user: 20 KiB (S3).
pub const POLICY_BYTES_MAX: usize = 20 << 10;
/// Policy variables in one document: each may stand for as much text as a request's head has.
pub const POLICY_VARIABLES_MAX: usize = 100;

/// Body bytes that one request holds in memory while they move between socket and disk.
pub const REQUEST_WINDOW_BYTES: usize = 1 << 20;
/// The same while less than half of the memory for bodies is free: enough for two chunks of the
/// blob engine, which are read and written as a whole.
pub const REQUEST_WINDOW_BYTES_MIN: usize = 128 << 10;

/// Users that the control plane keeps, and keys of one of them.
pub const USERS_MAX: usize = 10_000;
pub const USER_KEYS_MAX: usize = 8;
/// A user's name, in bytes.
pub const USER_NAME_BYTES_MAX: usize = 64;
/// The file of all users.
pub const USERS_FILE_BYTES_MAX: usize = 32 << 20;
/// One message that is sent to the control plane.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Connections to the control plane of callers that may use it, and of those that may not (yet).
/// The first is twice [`TRACE_WATCHERS_MAX`]: as many open traces as there may be must not keep out
/// the one who wants to look at the server, or to end it.
pub const CONTROL_CONNECTIONS_MAX: usize = 128;
pub const CONTROL_STRANGERS_MAX: usize = 16;
/// Events of the trace that wait for the control plane.
pub const TRACE_QUEUE_MAX: usize = 4096;
/// Watchers of the live trace, and events that wait for one of them.
pub const TRACE_WATCHERS_MAX: usize = 64;
pub const TRACE_EVENTS_MAX: usize = 1024;

const _: () = assert!(REQUEST_WINDOW_BYTES_MIN < REQUEST_WINDOW_BYTES);
const _: () = assert!(PUT_BYTES_MAX <= OBJECT_BYTES_MAX);
const _: () = assert!(HEAD_BYTES_MAX < CONN_BUFFER_BYTES_MAX);
const _: () = assert!(TRACE_WATCHERS_MAX < CONTROL_CONNECTIONS_MAX);
