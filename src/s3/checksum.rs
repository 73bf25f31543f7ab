//! The additional checksums of S3: computing, naming, parsing and combining them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use xxhash_rust::xxh3::Xxh3;
use xxhash_rust::xxh64::Xxh64;

use super::error::{Code, S3Error};
use super::etag;
use crate::engine::{Checksum, ChecksumAlgorithm, ChecksumKind, ETag};

/// Computes one checksum over bytes that come piece by piece.
#[derive(Clone)]
pub struct Hasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

impl Hasher {
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let crc = |crc| State::Crc(Box::new(crc_fast::Digest::new(crc)));
        let state = match algorithm {
            ChecksumAlgorithm::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64nvme => crc(CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 => State::Sha1(Sha1::new()),
            ChecksumAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
            ChecksumAlgorithm::Md5 => State::Md5(Md5::new()),
            ChecksumAlgorithm::Xxhash64 => State::Xxhash64(Box::new(Xxh64::new(0))),
            ChecksumAlgorithm::Xxhash3 => State::Xxhash3(Box::new(Xxh3::new())),
            ChecksumAlgorithm::Xxhash128 => State::Xxhash128(Box::new(Xxh3::new())),
        };
        Self { algorithm, state }
    }

    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(digest) => digest.update(bytes),
            State::Sha1(digest) => digest.update(bytes),
            State::Sha256(digest) => digest.update(bytes),
            State::Sha512(digest) => digest.update(bytes),
            State::Md5(digest) => digest.update(bytes),
            State::Xxhash64(digest) => digest.update(bytes),
            State::Xxhash3(digest) | State::Xxhash128(digest) => digest.update(bytes),
        }
    }

    /// The digest, big-endian.
    pub fn finalize(self) -> Box<[u8]> {
        match self.state {
            State::Crc(digest) => crc_bytes(self.algorithm, digest.finalize()),
            State::Sha1(digest) => digest.finalize().as_slice().into(),
            State::Sha256(digest) => digest.finalize().as_slice().into(),
            State::Sha512(digest) => digest.finalize().as_slice().into(),
            State::Md5(digest) => digest.finalize().as_slice().into(),
            State::Xxhash64(digest) => digest.digest().to_be_bytes().into(),
            State::Xxhash3(digest) => digest.digest().to_be_bytes().into(),
            State::Xxhash128(digest) => digest.digest128().to_be_bytes().into(),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Compares bytes, as they come piece by piece, with the checksum that was stored with them.
#[derive(Debug)]
pub(super) struct Verifier {
    hasher: Hasher,
    expected: Box<[u8]>,
}

impl Verifier {
    /// `None`: the checksum is not one of all bytes, or takes longer to compute than the bytes take
    /// to send.
    pub(super) fn new(checksum: &Checksum) -> Option<Self> {
        use ChecksumAlgorithm as A;
        let is_quick = match checksum.algorithm {
            A::Crc32 | A::Crc32c | A::Crc64nvme | A::Xxhash64 | A::Xxhash3 | A::Xxhash128 => true,
            A::Sha1 | A::Sha256 | A::Sha512 | A::Md5 => false,
        };
        (is_quick && checksum.kind == ChecksumKind::FullObject).then(|| Self {
            hasher: Hasher::new(checksum.algorithm),
            expected: checksum.digest.clone(),
        })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Whether all bytes together have the checksum.
    pub(super) fn holds(self) -> bool {
        self.hasher.finalize() == self.expected
    }
}

/// A checksum that a request's headers give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub algorithm: ChecksumAlgorithm,
    /// Of the algorithm's length.
    pub digest: Box<[u8]>,
    /// The `-N` of a composite checksum, as CompleteMultipartUpload may send it.
    pub parts: Option<u32>,
}

/// The one `x-amz-checksum-<algorithm>` header of a request, if there is one. Two of them, one of
/// an algorithm that S3 does not know and one with a malformed value are refused, each by name.
pub fn from_headers(headers: &HeaderMap) -> Result<Option<Given>, S3Error> {
    let mut found: Option<Given> = None;
    for (name, value) in headers {
        let Some(suffix) = name.as_str().strip_prefix(HEADER_PREFIX) else {
            continue;
        };
        if matches!(suffix, "algorithm" | "type" | "mode") {
            continue;
        }
        let algorithm = algorithm_by_header(name.as_str()).ok_or_else(|| unknown(name.as_str()))?;
        if found.is_some() {
            return Err(more_than_one());
        }
        let text = value.to_str().unwrap_or_default();
        let (text, parts) = match text.rsplit_once('-') {
            Some((digest, parts)) => (digest, Some(parts.parse::<u32>().ok())),
            None => (text, None),
        };
        let digest = parse(algorithm, text);
        let (Some(digest), None | Some(Some(_))) = (digest, parts) else {
            return Err(malformed_value(name.as_str()));
        };
        found = Some(Given {
            algorithm,
            digest,
            parts: parts.flatten(),
        });
    }
    Ok(found)
}

/// The digest that a base64 header value or trailer holds; `None` if it is no base64 or has
/// another length than the algorithm's digests.
pub fn parse(algorithm: ChecksumAlgorithm, text: &str) -> Option<Box<[u8]>> {
    let bytes = STANDARD.decode(text).ok()?;
    (bytes.len() == digest_bytes(algorithm)).then(|| bytes.into())
}

/// The text of a header or XML element: base64, and `-<parts>` behind a composite one.
pub fn format(checksum: &Checksum, parts: usize) -> String {
    let mut text = STANDARD.encode(&checksum.digest);
    if checksum.kind == ChecksumKind::Composite {
        text.push('-');
        text.push_str(&parts.to_string());
    }
    text
}

/// `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1` or `SHA256`.
pub fn algorithm_name(algorithm: ChecksumAlgorithm) -> &'static str {
    facts(algorithm).name
}

/// The algorithm of a name, in any case as S3 takes it.
pub fn algorithm_by_name(name: &str) -> Option<ChecksumAlgorithm> {
    ALGORITHMS
        .into_iter()
        .find(|algorithm| algorithm_name(*algorithm).eq_ignore_ascii_case(name))
}

/// `x-amz-checksum-crc32` and its like.
pub fn header_name(algorithm: ChecksumAlgorithm) -> &'static str {
    facts(algorithm).header
}

/// `ChecksumCRC32` and its like, in XML.
pub fn element_name(algorithm: ChecksumAlgorithm) -> &'static str {
    facts(algorithm).element
}

/// The algorithm of a header or trailer name in lower case.
pub fn algorithm_by_header(name: &str) -> Option<ChecksumAlgorithm> {
    ALGORITHMS
        .into_iter()
        .find(|algorithm| header_name(*algorithm) == name)
}

/// `FULL_OBJECT` or `COMPOSITE`.
pub fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// What an upload's checksum is when the client names only the algorithm (S3's user guide).
pub fn default_kind(algorithm: ChecksumAlgorithm) -> ChecksumKind {
    match algorithm {
        ChecksumAlgorithm::Crc64nvme => ChecksumKind::FullObject,
        _ => ChecksumKind::Composite,
    }
}

/// Whether an upload may ask for this: CRC64NVME is never composite, what is no CRC always.
pub fn upload_supports(algorithm: ChecksumAlgorithm, kind: ChecksumKind) -> bool {
    match algorithm {
        ChecksumAlgorithm::Crc64nvme => kind == ChecksumKind::FullObject,
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => true,
        _ => kind == ChecksumKind::Composite,
    }
}

/// The checksum of an object made of parts, from their digests and sizes in order; `None` if a
/// digest is not of the algorithm's length or the algorithm cannot be combined in this way.
pub fn of_parts<'a>(
    algorithm: ChecksumAlgorithm,
    kind: ChecksumKind,
    parts: impl IntoIterator<Item = PartDigest<'a>>,
) -> Option<Checksum> {
    if !upload_supports(algorithm, kind) {
        return None;
    }
    let digest = match kind {
        ChecksumKind::Composite => composite(algorithm, parts)?,
        ChecksumKind::FullObject => combined(algorithm, parts)?,
    };
    Some(Checksum {
        algorithm,
        kind,
        digest,
    })
}

/// One part's digest and how many bytes it covers.
#[derive(Clone, Copy, Debug)]
pub struct PartDigest<'a> {
    pub digest: &'a [u8],
    pub size_bytes: u64,
}

/// The ETag of an object made of parts: the MD5 of their MD5s and their number. `None` if an
/// ETag is neither the MD5 of one part nor a fast one.
pub fn etag_of_parts<'a>(etags: impl IntoIterator<Item = &'a ETag>) -> Option<ETag> {
    let mut md5 = Md5::new();
    let mut count = 0_u32;
    for etag in etags {
        md5.update(unhex::<16>(etag::digits(etag))?);
        count += 1;
    }
    let md5_of_all = ETag::from_md5(md5.finalize().into());
    Some(ETag::new(format!("{}-{count}", md5_of_all.as_str())))
}

/// The bytes of exactly `2 * N` lower-case hexadecimal digits.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// S3's answer to a checksum that is not the one of the bytes received.
pub(super) fn mismatch(algorithm: ChecksumAlgorithm) -> S3Error {
    let name = algorithm_name(algorithm);
    let message = format!("The {name} you specified did not match the calculated checksum.");
    S3Error::with_message(Code::BadDigest, message)
}

/// S3's answer to a checksum value that is no base64 or has the wrong length.
pub(super) fn malformed_value(header: &str) -> S3Error {
    let message = format!("Value for {header} header is invalid.");
    S3Error::with_message(Code::InvalidRequest, message)
}

/// S3's answer to a second checksum, be it a header or announced in `x-amz-trailer`.
pub(super) fn more_than_one() -> S3Error {
    let message = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not \
                   allowed.";
    S3Error::with_message(Code::InvalidRequest, message)
}

/// The answer to a checksum of an algorithm that this server does not compute.
pub(super) fn unknown(header: &str) -> S3Error {
    let message = format!(
        "The checksum algorithm of '{header}' is not supported. Use one of \
         {}.",
        all_names()
    );
    S3Error::with_message(Code::InvalidRequest, message)
}

/// Boxed where it is several times the size of the others.
#[derive(Clone)]
enum State {
    Crc(Box<crc_fast::Digest>),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Box<Sha512>),
    Md5(Md5),
    Xxhash64(Box<Xxh64>),
    Xxhash3(Box<Xxh3>),
    Xxhash128(Box<Xxh3>),
}

fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = PartDigest<'a>>,
) -> Option<Box<[u8]>> {
    let mut hasher = Hasher::new(algorithm);
    for part in parts {
        if part.digest.len() != digest_bytes(algorithm) {
            return None;
        }
        hasher.update(part.digest);
    }
    Some(hasher.finalize())
}

fn combined<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = PartDigest<'a>>,
) -> Option<Box<[u8]>> {
    let crc = match algorithm {
        ChecksumAlgorithm::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
        ChecksumAlgorithm::Crc32c => CrcAlgorithm::Crc32Iscsi,
        ChecksumAlgorithm::Crc64nvme => CrcAlgorithm::Crc64Nvme,
        _ => return None,
    };
    let mut all = crc_fast::Digest::new(crc).finalize();
    for part in parts {
        let value = crc_value(algorithm, part.digest)?;
        all = crc_fast::checksum_combine(crc, all, value, part.size_bytes);
    }
    Some(crc_bytes(algorithm, all))
}

fn crc_bytes(algorithm: ChecksumAlgorithm, value: u64) -> Box<[u8]> {
    let bytes = value.to_be_bytes();
    let skip = bytes.len() - digest_bytes(algorithm).min(bytes.len());
    bytes.get(skip..).unwrap_or_default().into()
}

fn crc_value(algorithm: ChecksumAlgorithm, digest: &[u8]) -> Option<u64> {
    if digest.len() != digest_bytes(algorithm) {
        return None;
    }
    Some(
        digest
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

fn digest_bytes(algorithm: ChecksumAlgorithm) -> usize {
    facts(algorithm).digest_bytes
}

/// What S3 calls an algorithm, and how long its digests are.
struct Facts {
    name: &'static str,
    header: &'static str,
    element: &'static str,
    digest_bytes: usize,
}

fn facts(algorithm: ChecksumAlgorithm) -> Facts {
    macro_rules! facts {
        ($name:literal, $header:literal, $digest_bytes:literal) => {
            Facts {
                name: $name,
                header: concat!("x-amz-checksum-", $header),
                element: concat!("Checksum", $name),
                digest_bytes: $digest_bytes,
            }
        };
    }
    match algorithm {
        ChecksumAlgorithm::Crc32 => facts!("CRC32", "crc32", 4),
        ChecksumAlgorithm::Crc32c => facts!("CRC32C", "crc32c", 4),
        ChecksumAlgorithm::Crc64nvme => facts!("CRC64NVME", "crc64nvme", 8),
        ChecksumAlgorithm::Sha1 => facts!("SHA1", "sha1", 20),
        ChecksumAlgorithm::Sha256 => facts!("SHA256", "sha256", 32),
        ChecksumAlgorithm::Sha512 => facts!("SHA512", "sha512", 64),
        ChecksumAlgorithm::Md5 => facts!("MD5", "md5", 16),
        ChecksumAlgorithm::Xxhash64 => facts!("XXHASH64", "xxhash64", 8),
        ChecksumAlgorithm::Xxhash3 => facts!("XXHASH3", "xxhash3", 8),
        ChecksumAlgorithm::Xxhash128 => facts!("XXHASH128", "xxhash128", 16),
    }
}

/// The names of all algorithms, for people.
pub(super) fn all_names() -> String {
    ALGORITHMS.map(algorithm_name).join(", ")
}

const HEADER_PREFIX: &str = "x-amz-checksum-";

const ALGORITHMS: [ChecksumAlgorithm; 10] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
    ChecksumAlgorithm::Sha512,
    ChecksumAlgorithm::Md5,
    ChecksumAlgorithm::Xxhash64,
    ChecksumAlgorithm::Xxhash3,
    ChecksumAlgorithm::Xxhash128,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest_of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Box<[u8]> {
        let mut hasher = Hasher::new(algorithm);
        bytes.chunks(7).for_each(|piece| hasher.update(piece));
        hasher.finalize()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    /// The check values of the CRC catalogue, FIPS 180's for the SHAs.
    #[test]
    fn known_digests() {
        let hex = |algorithm, text: &str| {
            let digest = digest_of(algorithm, text.as_bytes());
            digest
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(hex(ChecksumAlgorithm::Crc32, "123456789"), "cbf43926");
        assert_eq!(hex(ChecksumAlgorithm::Crc32c, "123456789"), "e3069283");
        assert_eq!(
            hex(ChecksumAlgorithm::Crc64nvme, "123456789"),
            "ae8b14860a799888"
        );
        assert_eq!(
            hex(ChecksumAlgorithm::Sha1, "abc"),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hex(ChecksumAlgorithm::Sha256, "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // RFC 1321, and the values of xxhsum 0.8.
        assert_eq!(
            hex(ChecksumAlgorithm::Md5, "abc"),
            "900150983cd24fb0d6963f7d28e17f72"
        );
        assert_eq!(hex(ChecksumAlgorithm::Xxhash64, ""), "ef46db3751d8e999");
        assert_eq!(hex(ChecksumAlgorithm::Xxhash3, ""), "2d06800538d394c2");
        assert_eq!(
            hex(ChecksumAlgorithm::Xxhash128, ""),
            "99aa06d3014798d86001c324468d497f"
        );
    }

    #[test]
    fn names_lead_back_to_their_algorithm() {
        for algorithm in ALGORITHMS {
            assert_eq!(
                algorithm_by_name(algorithm_name(algorithm)),
                Some(algorithm)
            );
            assert_eq!(algorithm_by_header(header_name(algorithm)), Some(algorithm));
            assert_eq!(digest_of(algorithm, b"").len(), digest_bytes(algorithm));
        }
        assert_eq!(
            algorithm_by_name("crc64nvme"),
            Some(ChecksumAlgorithm::Crc64nvme)
        );
        assert_eq!(algorithm_by_name("CRC16"), None);
    }

    #[test]
    fn values_are_parsed_strictly() {
        let crc = |text| parse(ChecksumAlgorithm::Crc32, text);
        assert_eq!(crc("y/Q5Jg=="), Some([0xcb, 0xf4, 0x39, 0x26].into()));
        for wrong in [
            "",
            "y/Q5Jg",
            "y/Q5Jg=",
            "y_Q5Jg==",
            "y/Q5Jh==",
            "y/Q5JgA=",
            " y/Q5Jg==",
            "cbf43926",
        ] {
            assert_eq!(crc(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn one_checksum_header_is_read_and_others_are_refused_by_name() {
        let given = |pairs: &[_]| from_headers(&headers(pairs));
        let crc32 = ("x-amz-checksum-crc32", "y/Q5Jg==");
        assert_eq!(given(&[("x-amz-date", "x")]).unwrap(), None);
        assert_eq!(given(&[("x-amz-checksum-mode", "ENABLED")]).unwrap(), None);
        let one = given(&[crc32, ("x-amz-checksum-type", "FULL_OBJECT")])
            .unwrap()
            .unwrap();
        assert_eq!((one.algorithm, one.parts), (ChecksumAlgorithm::Crc32, None));
        let composite = given(&[("x-amz-checksum-crc32", "y/Q5Jg==-3")])
            .unwrap()
            .unwrap();
        assert_eq!(composite.parts, Some(3));
        for (pairs, name) in [
            (
                &[crc32, ("x-amz-checksum-sha1", "x")][..],
                "Multiple checksum Types",
            ),
            (&[crc32, crc32], "Multiple checksum Types"),
            (&[("x-amz-checksum-crc16", "x")], "x-amz-checksum-crc16"),
            (
                &[("x-amz-checksum-crc32", "y/Q5Jg")],
                "x-amz-checksum-crc32",
            ),
            (
                &[("x-amz-checksum-crc32", "y/Q5Jg==-x")],
                "x-amz-checksum-crc32",
            ),
        ] {
            let error = given(pairs).unwrap_err();
            assert_eq!(error.code, Code::InvalidRequest);
            assert!(error.message.contains(name), "{error}");
        }
    }

    /// "Checking object integrity" of S3's user guide: a composite is the checksum of the parts'
    /// checksums, and an ETag the MD5 of their MD5s.
    #[test]
    fn composites_are_digests_of_digests() {
        let parts: [&[u8]; 2] = [b"hello ", b"world"];
        for algorithm in ALGORITHMS {
            let digests = parts.map(|part| digest_of(algorithm, part));
            let parts = digests.iter().map(|digest| PartDigest {
                digest,
                size_bytes: 6,
            });
            let made = of_parts(algorithm, ChecksumKind::Composite, parts);
            if algorithm == ChecksumAlgorithm::Crc64nvme {
                assert_eq!(made, None);
                continue;
            }
            let made = made.unwrap();
            assert_eq!(made.digest, digest_of(algorithm, &digests.concat()));
            assert!(format(&made, 2).ends_with("=-2"));
        }
        let etags = parts.map(|part| ETag::from_md5(Md5::digest(part).into()));
        // md5(md5("hello ") + md5("world")).
        let expected = "e09e4fd6265b36115fe3db32df945d84-2";
        assert_eq!(etag_of_parts(&etags).unwrap().as_str(), expected);
        assert_eq!(etag_of_parts([&ETag::new("abc-2")]), None);
    }

    #[test]
    fn digests_of_another_length_are_not_combined() {
        for kind in [ChecksumKind::Composite, ChecksumKind::FullObject] {
            let part = PartDigest {
                digest: &[1, 2, 3],
                size_bytes: 1,
            };
            assert_eq!(of_parts(ChecksumAlgorithm::Crc32, kind, [part]), None);
        }
    }

    proptest! {
        #[test]
        fn the_crc_of_an_object_is_combined_from_its_parts(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
        ) {
            for algorithm in
                [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64nvme]
            {
                let digests: Vec<_> =
                    parts
                        .iter()
                        .map(|part| (digest_of(algorithm, part), part.len() as u64))
                        .collect();
                let digests = digests
                    .iter()
                    .map(|(digest, size_bytes)| PartDigest { digest, size_bytes: *size_bytes });
                let made = of_parts(algorithm, ChecksumKind::FullObject, digests).unwrap();
                prop_assert_eq!(made.digest, digest_of(algorithm, &parts.concat()));
            }
        }

        #[test]
        fn hexadecimal_digits_lead_back_to_their_bytes(bytes in any::<[u8; 8]>()) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(unhex::<8>(&text), Some(bytes));
            prop_assert_eq!(unhex::<7>(&text), None);
        }
    }
}
