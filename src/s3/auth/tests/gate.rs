//! Who comes through the gate, and what it says of their bodies.

use super::super::PayloadSpec;
use super::*;

#[test]
fn sec_auth_dispatch_several_kinds_at_once_are_refused() {
    let header = |sent: Sent| sent.header("authorization", "Basic YTpi");
    let both = Signer::default().in_query_v2(presigned(), NOW + 60, "/bucket/key");
    for sent in [header(presigned()), header(presigned_v2()), both] {
        assert_eq!(code(&gate(), &sent), Err(Code::InvalidArgument), "{sent:?}");
    }
    let escaped = signed().param("%58-Amz-Signature", "00");
    assert_eq!(code(&gate(), &escaped), Err(Code::InvalidArgument));
}

#[test]
fn sec_auth_dispatch_users_without_keys_cannot_sign() {
    let signer = with(|signer| {
        signer.access_key = String::new();
        signer.secret = String::new();
    });
    for sent in [
        signer.in_header(get(), UNSIGNED),
        signer.in_query_v2(get(), NOW + 60, "/bucket/key"),
    ] {
        assert_eq!(code(&gate(), &sent), Err(Code::InvalidAccessKeyId));
    }
    let users = Users::new(Vec::new()).unwrap();
    assert!(users.root().root);
    assert!(users.by_access_key("").is_none());
}

#[test]
fn without_authentication_everybody_is_root_and_bodies_keep_their_framing() {
    let gate = gate_with(NOW, false, true);
    let with_hash = |hash: &str| get().header("x-amz-content-sha256", hash);
    for sent in [
        get(),
        signed(),
        wrong_secret().in_header(get(), UNSIGNED),
        wrong_key().in_query(get(), "1"),
        get().header("authorization", "Basic YTpi"),
    ] {
        assert_eq!(code(&gate, &sent), Ok("boss".into()), "{sent:?}");
    }
    let spec = |sent: Sent| format!("{:?}", authenticate(&gate, &sent).unwrap().payload());
    assert_eq!(spec(get()), "Unsigned");
    assert_eq!(spec(with_hash(UNSIGNED)), "Unsigned");
    assert_eq!(spec(with_hash(EMPTY)), "Sha256");
    for (hash, trailer) in [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", false),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", true),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", true),
    ] {
        let expected = format!("Chunks {{ signed: false, trailer: {trailer} }}");
        assert_eq!(spec(with_hash(hash)), expected);
    }
    let odd = authenticate(&gate, &with_hash("0")).unwrap_err();
    assert_eq!(odd.code, Code::InvalidArgument);
}

#[test]
fn the_body_is_verified_as_its_head_was_signed() {
    let spec = |sent: Sent| authenticate(&gate(), &sent).unwrap().into_payload();
    let signed = |hash: &str| spec(Signer::default().in_header(get(), hash));
    assert!(matches!(signed(UNSIGNED), PayloadSpec::Unsigned));
    assert!(matches!(signed(EMPTY), PayloadSpec::Sha256(digest) if hex_of(&digest) == EMPTY));
    assert!(matches!(
        signed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        PayloadSpec::Chunks {
            signer: Some(_),
            trailer: false
        }
    ));
    assert!(matches!(
        signed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        PayloadSpec::Chunks {
            signer: Some(_),
            trailer: true
        }
    ));
    assert!(matches!(
        signed("STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        PayloadSpec::Chunks {
            signer: None,
            trailer: true
        }
    ));
    // A sender that signs nothing of the body still frames it.
    let framed = get()
        .header("content-encoding", "gzip, AWS-chunked")
        .header("x-amz-decoded-content-length", "1");
    assert!(matches!(
        spec(framed.clone()),
        PayloadSpec::Chunks {
            signer: None,
            trailer: false
        }
    ));
    assert!(matches!(
        spec(framed.header("x-amz-trailer", "x-amz-checksum-crc32")),
        PayloadSpec::Chunks {
            signer: None,
            trailer: true
        }
    ));
    let anonymous = get().header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    assert_eq!(code(&gate(), &anonymous), Err(Code::InvalidRequest));
}

#[test]
fn the_authority_stands_for_the_host_in_http_2() {
    let mut sent = signed();
    sent.headers.remove(0);
    sent.target = format!("http://{HOST}{}", sent.target);
    assert_eq!(code(&gate(), &sent), Ok("alice".into()));
}

#[test]
fn a_changed_secret_makes_old_signatures_worthless() {
    let user = |secret: &str| User {
        name: "alice".into(),
        id: "alice".into(),
        access_key: ACCESS_KEY.into(),
        secret_key: Secret::new(secret),
        expires: None,
        root: false,
        policies: Vec::new(),
    };
    let users = Arc::new(ArcSwap::from_pointee(
        Users::new(vec![user(SECRET)]).unwrap(),
    ));
    let settings = GateSettings {
        users: Arc::clone(&users),
        region: "us-east-1".into(),
        sigv2: true,
        required: true,
    };
    let gate = Gate::new(
        settings,
        Clock::from_fn(|| Timestamp::from_unix_seconds(NOW)),
    );
    // Twice: the second one finds the signing key in the cache.
    assert_eq!(code(&gate, &signed()), Ok("alice".into()));
    assert_eq!(code(&gate, &signed()), Ok("alice".into()));
    users.store(Arc::new(Users::new(vec![user("other")]).unwrap()));
    assert_eq!(code(&gate, &signed()), Err(Code::SignatureDoesNotMatch));
    users.store(Arc::new(Users::new(Vec::new()).unwrap()));
    assert_eq!(code(&gate, &signed()), Err(Code::InvalidAccessKeyId));
}

#[test]
fn more_regions_than_the_cache_holds_all_verify() {
    let gate = gate();
    for round in 0..3 {
        for region in 0..20 {
            let signer = with(|signer| signer.region = format!("region-{region}"));
            let sent = signer.in_header(get(), UNSIGNED);
            assert_eq!(code(&gate, &sent), Ok("alice".into()), "{round} {region}");
        }
    }
}

#[test]
fn sec_secrets_are_in_no_error_and_no_debug_text() {
    let mut texts = vec![format!("{:?}", gate())];
    for sent in [
        wrong_secret().in_header(get(), UNSIGNED),
        wrong_secret().in_query(get(), "60"),
        wrong_secret().in_query_v2(get(), NOW + 60, "/bucket/key"),
        get().header("authorization", format!("Basic {SECRET}")),
        get().header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={SECRET}"),
        ),
    ] {
        let error = authenticate(&gate(), &sent).unwrap_err();
        texts.push(format!("{error:?} {error}"));
    }
    let streaming = Signer::default().in_header(get(), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    texts.push(format!("{:?}", authenticate(&gate(), &streaming).unwrap()));
    let signatures = [
        signature_of(&wrong_secret().in_header(get(), UNSIGNED)),
        signature_of(&streaming),
    ];
    for text in texts {
        for secret in [SECRET, "boss secret", &signatures[0], &signatures[1]] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn two_users_with_one_access_key_are_refused() {
    let user = |name: &str| User {
        name: name.into(),
        id: name.into(),
        access_key: "SAME".into(),
        secret_key: Secret::new(name),
        expires: None,
        root: false,
        policies: Vec::new(),
    };
    let error = Users::new(vec![user("one"), user("two")]).unwrap_err();
    assert_eq!(
        error,
        super::super::DuplicateKey {
            access_key: "SAME".into()
        }
    );
}
