//! What authentication and digests cost: `cargo bench --bench auth`.
//!
//! The requests are the published examples of AWS's documentation, so that nothing here signs.

#![expect(
    clippy::expect_used,
    reason = "a bench that cannot be set up has nothing to tell"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use lobos::clock::{Clock, Timestamp};
use lobos::s3::auth::{ChunkDecoder, Gate, GateSettings, Secret, Step, User, Users};
use md5::Digest as _;

fn main() {
    let gate = gate();
    let header = get("/test.txt", true);
    let presigned = get(PRESIGNED, false);
    each("header v4", || {
        assert!(gate.authenticate(black_box(&header), None).is_ok())
    });
    each("presigned v4", || {
        assert!(gate.authenticate(black_box(&presigned), None).is_ok())
    });
    let block = Bytes::from(vec![0x5a; BLOCK_BYTES]);
    rate("md5", || {
        black_box(md5::Md5::digest(black_box(&block)));
    });
    rate("sha1", || {
        black_box(sha1::Sha1::digest(black_box(&block)));
    });
    rate("sha256", || {
        black_box(sha2::Sha256::digest(black_box(&block)));
    });
    for algorithm in [
        crc_fast::CrcAlgorithm::Crc32IsoHdlc,
        crc_fast::CrcAlgorithm::Crc32Iscsi,
        crc_fast::CrcAlgorithm::Crc64Nvme,
    ] {
        let target = crc_fast::get_calculator_target(algorithm);
        rate(&format!("{algorithm:?} ({target})"), || {
            black_box(crc_fast::checksum(algorithm, black_box(&block)));
        });
    }
    let chunk = [
        format!("{BLOCK_BYTES:x}\r\n").as_bytes(),
        &block,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let chunk = Bytes::from(chunk);
    rate("aws-chunked, unsigned", || drain(&chunk));
}

fn drain(body: &Bytes) {
    let mut decoder = ChunkDecoder::new(None, false, BLOCK_BYTES as u64);
    let mut input = body.clone();
    while let Ok(Step::Data(data)) = decoder.step(&mut input) {
        black_box(data);
    }
    assert!(decoder.finish().is_ok());
}

/// The least time of several rounds: the one that nothing else disturbed.
fn least_nanos(rounds: u32, calls: u32, mut work: impl FnMut()) -> f64 {
    let one = |_| {
        let start = Instant::now();
        (0..calls).for_each(|_| work());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    (0..rounds).map(one).fold(f64::INFINITY, f64::min)
}

fn each(name: &str, work: impl FnMut()) {
    println!("{name:<40} {:>10.0} ns", least_nanos(20, 100_000, work));
}

fn rate(name: &str, work: impl FnMut()) {
    let bytes_per_nano = BLOCK_BYTES as f64 / least_nanos(10, 50, work);
    println!("{name:<40} {bytes_per_nano:>10.2} GB/s");
}

fn gate() -> Gate {
    let user = User {
        name: "alice".into(),
        id: "alice".into(),
        access_key: "AKIAIOSFODNN7EXAMPLE".into(),
        secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        expires: None,
        root: false,
        policies: Vec::new(),
    };
    let users = Users::new(vec![user]).expect("one user");
    let settings = GateSettings {
        users: Arc::new(ArcSwap::from_pointee(users)),
        region: "us-east-1".into(),
        sigv2: true,
        required: true,
    };
    Gate::new(
        settings,
        Clock::from_fn(|| Timestamp::from_unix_seconds(1_369_353_600)),
    )
}

fn get(target: &str, signed_in_header: bool) -> Parts {
    let mut request = http::Request::builder()
        .uri(target)
        .header("host", "examplebucket.s3.amazonaws.com");
    if signed_in_header {
        request = request
            .header("range", "bytes=0-9")
            .header(
                "x-amz-content-sha256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            )
            .header("x-amz-date", "20130524T000000Z")
            .header("authorization", AUTHORIZATION);
    }
    request.body(()).expect("a legal request").into_parts().0
}

const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 \
    Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
    SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
    Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

const PRESIGNED: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
    &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

const BLOCK_BYTES: usize = 1 << 20;
