use super::*;

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_str(value).unwrap())
    });
    pairs.collect()
}

fn local(peer: &str, secure: bool) -> Local {
    Local {
        ip: None,
        host: None,
        peer: Some(peer.parse().unwrap()),
        secure,
    }
}

fn headers_of(key: &[u8]) -> HeaderMap {
    map(&[
        (OBJECT[0], "AES256"),
        (OBJECT[1], &STANDARD.encode(key)),
        (OBJECT[2], &STANDARD.encode(Md5::digest(key))),
    ])
}

fn key_of(byte: u8) -> CustomerKey {
    let here = local("127.0.0.1", false);
    let key = CustomerKey::of_object(&headers_of(&[byte; 32]), &here);
    key.unwrap().unwrap()
}

#[test]
fn a_key_comes_whole_or_is_refused() {
    let here = local("127.0.0.1", false);
    let parse = |headers: &HeaderMap| CustomerKey::of_object(headers, &here);
    assert!(parse(&HeaderMap::new()).unwrap().is_none());
    assert!(parse(&headers_of(&[1; 32])).unwrap().is_some());
    for name in OBJECT {
        let mut headers = headers_of(&[1; 32]);
        headers.remove(name);
        assert_eq!(
            parse(&headers).unwrap_err().code,
            Code::InvalidArgument,
            "{name}"
        );
    }
    for (name, value) in [
        (OBJECT[0], "aes256"),
        (OBJECT[0], "AES128"),
        (OBJECT[1], "not base64"),
        (OBJECT[2], "AAAAAAAAAAAAAAAAAAAAAA=="),
    ] {
        let mut headers = headers_of(&[1; 32]);
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        assert_eq!(
            parse(&headers).unwrap_err().code,
            Code::InvalidArgument,
            "{value}"
        );
    }
    for bytes in [0, 16, 31, 33] {
        let refused = parse(&headers_of(&vec![1; bytes])).unwrap_err();
        assert!(refused.message.contains("32 bytes"), "{refused}");
    }
}

#[test]
fn sec_secrets_a_key_does_not_cross_a_network_in_the_clear() {
    let headers = headers_of(&[1; 32]);
    let take = |peer, secure| CustomerKey::of_object(&headers, &local(peer, secure)).is_ok();
    assert!(take("127.0.0.1", false) && take("::1", false) && take("::ffff:127.0.0.1", false));
    assert!(take("192.0.2.1", true));
    assert!(!take("192.0.2.1", false) && !take("::ffff:192.0.2.1", false));
    let unix = Local {
        peer: None,
        ..local("127.0.0.1", false)
    };
    assert!(CustomerKey::of_object(&headers, &unix).is_ok());
    assert!(!format!("{:?}", key_of(1)).contains("[1"));
}

#[test]
fn what_is_sealed_is_read_with_its_own_key_only() {
    let (own, other) = (key_of(1), key_of(2));
    let seal = own.seal(&Entropy::system());
    let code = |seal, key| check(seal, key).map_err(|error| error.code);
    assert_eq!(code(Some(&seal), Some(&own)), Ok(()));
    assert_eq!(code(None, None), Ok(()));
    assert_eq!(code(Some(&seal), None), Err(Code::InvalidRequest));
    assert_eq!(code(None, Some(&own)), Err(Code::InvalidRequest));
    assert_eq!(code(Some(&seal), Some(&other)), Err(Code::AccessDenied));
}

#[test]
fn sec_fail_open_encryption_with_keys_of_the_server_is_refused() {
    let code = |pairs: &[(&'static str, &str)]| {
        refuse_server_keys(&map(pairs)).map_err(|error| error.code)
    };
    let context = "x-amz-server-side-encryption-context";
    assert_eq!(code(&[]), Ok(()));
    assert_eq!(
        refuse_server_keys(&headers_of(&[1; 32])).map_err(|error| error.code),
        Ok(())
    );
    for method in ["AES256", "aws:kms", "aws:kms:dsse"] {
        assert_eq!(
            code(&[(METHOD, method)]),
            Err(Code::NotImplemented),
            "{method}"
        );
    }
    assert_eq!(
        code(&[(METHOD, "aws:kms"), (KMS_KEY, "k")]),
        Err(Code::NotImplemented)
    );
    for wrong in [
        &[(METHOD, "aes256")][..],
        &[(METHOD, "")],
        &[(METHOD, "AES256"), (KMS_KEY, "k")],
        &[(KMS_KEY, "k")],
        &[(context, "e30=")],
        &[(METHOD, "AES256"), (OBJECT[0], "AES256")],
        &[(METHOD, "aws:kms"), (OBJECT[1], "k")],
    ] {
        assert_eq!(code(wrong), Err(Code::InvalidArgument), "{wrong:?}");
    }
}
