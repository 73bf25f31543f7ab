//! A `multipart/form-data` body (RFC 7578, RFC 2046 section 5.1), read part by part as it comes:
//! what is held of it is one piece of the body and the delimiter.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::memmem;

use super::error::{Code, S3Error};

/// Where the bytes of a form come from.
pub(super) trait Source {
    /// The next piece; `None` once all were given and found to be what the head promised.
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error>;
}

impl Source for super::payload::Payload {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        Self::next(self).await
    }
}

/// The parts of a form, in order.
#[derive(Debug)]
pub(super) struct Form<S> {
    source: S,
    /// Received, not given out yet. At the start it holds the line break that the first delimiter
    /// may do without.
    pending: BytesMut,
    /// `\r\n--boundary`.
    delimiter: Box<[u8]>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the data of a part, or before the first delimiter.
    Data,
    /// Behind a delimiter.
    Delimiter,
    /// Behind the last one.
    End,
}

/// What the head of a part says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// As it was written.
    pub(super) name: String,
    pub(super) filename: Option<String>,
}

impl<S: Source> Form<S> {
    /// `PreconditionFailed` if the request is no form at all, as S3 answers.
    pub(super) fn new(headers: &HeaderMap, source: S) -> Result<Self, S3Error> {
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let boundary = kind.and_then(boundary_of).ok_or_else(|| {
            S3Error::with_message(
                Code::PreconditionFailed,
                "Bucket POST must be of the enclosure-type multipart/form-data",
            )
        })?;
        Ok(Self {
            source,
            pending: BytesMut::from(&b"\r\n"[..]),
            delimiter: format!("\r\n--{boundary}").into_bytes().into(),
            place: Place::Data,
        })
    }

    /// The next part; what is left of the one before is passed over. `None`: there is no more.
    pub(super) async fn part(&mut self) -> Result<Option<Part>, S3Error> {
        while self.data().await?.is_some() {}
        if self.place == Place::End {
            return Ok(None);
        }
        // Behind a delimiter: `--` after the last one, else the end of its line.
        self.fill(2).await?;
        if self.pending.starts_with(b"--") {
            self.place = Place::End;
            return Ok(None);
        }
        let head = self.head().await?;
        self.place = Place::Data;
        Part::parse(&head).map(Some)
    }

    /// The next piece of the part's data; `None` at its end.
    pub(super) async fn data(&mut self) -> Result<Option<Bytes>, S3Error> {
        if self.place != Place::Data {
            return Ok(None);
        }
        loop {
            if let Some(at) = memmem::find(&self.pending, &self.delimiter) {
                let data = self.pending.split_to(at).freeze();
                if !data.is_empty() {
                    return Ok(Some(data));
                }
                let _ = self.pending.split_to(self.delimiter.len());
                self.place = Place::Delimiter;
                return Ok(None);
            }
            // The end of it may be the start of a delimiter.
            let safe = (self.pending.len() + 1).saturating_sub(self.delimiter.len());
            if safe > 0 {
                return Ok(Some(self.pending.split_to(safe).freeze()));
            }
            self.receive().await?;
        }
    }

    /// Reads what follows the parts, to the end of the body, which then is verified.
    pub(super) async fn finish(mut self) -> Result<(), S3Error> {
        while self.source.next().await?.is_some() {}
        Ok(())
    }

    /// The lines of a part's head, from behind the delimiter to the empty line.
    async fn head(&mut self) -> Result<Bytes, S3Error> {
        loop {
            if let Some(at) = memmem::find(&self.pending, b"\r\n\r\n") {
                return Ok(self.pending.split_to(at + 4).freeze());
            }
            if self.pending.len() > PART_HEAD_BYTES_MAX {
                return Err(malformed("the head of a part is too long"));
            }
            self.receive().await?;
        }
    }

    async fn fill(&mut self, count: usize) -> Result<(), S3Error> {
        while self.pending.len() < count {
            self.receive().await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), S3Error> {
        match self.source.next().await? {
            Some(piece) => self.pending.extend_from_slice(&piece),
            None => return Err(malformed("it ends within a part")),
        }
        Ok(())
    }
}

impl Part {
    fn parse(head: &[u8]) -> Result<Self, S3Error> {
        let head = std::str::from_utf8(head).map_err(|_| malformed("a head is not UTF-8"))?;
        for line in head.split("\r\n") {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if !name.trim().eq_ignore_ascii_case("content-disposition") {
                continue;
            }
            let (kind, params) = value.split_once(';').unwrap_or((value, ""));
            if !kind.trim().eq_ignore_ascii_case("form-data") {
                break;
            }
            let params = parameters(params);
            let named = |wanted: &str| {
                let mut found = params.iter().filter(|(name, _)| name == wanted);
                found.next().map(|(_, value)| value.clone())
            };
            if let Some(name) = named("name") {
                return Ok(Self {
                    name,
                    filename: named("filename"),
                });
            }
        }
        Err(malformed("a part has no name"))
    }
}

/// `; name="value"; other=value`, names in lower case. Browsers write a quote inside a value as
/// `%22` or behind a backslash.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, tail)) = rest.split_once('=') {
        let name = name.trim_matches([' ', '\t', ';']).to_ascii_lowercase();
        let mut value = String::new();
        rest = match tail.trim_start().strip_prefix('"') {
            None => {
                let (plain, tail) = tail.split_once(';').unwrap_or((tail, ""));
                value.push_str(plain.trim());
                tail
            }
            Some(quoted) => {
                let mut letters = quoted.chars();
                while let Some(letter) = letters.next() {
                    match letter {
                        '"' => break,
                        // Only what must be escaped: a Windows path holds plain backslashes.
                        '\\' if letters.as_str().starts_with(['"', '\\']) => {
                            value.extend(letters.next());
                        }
                        letter => value.push(letter),
                    }
                }
                letters.as_str()
            }
        };
        found.push((name, value));
    }
    found
}

fn boundary_of(kind: &str) -> Option<String> {
    let (name, params) = kind.split_once(';')?;
    if !name.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let params = parameters(params);
    let (_, boundary) = params.into_iter().find(|(name, _)| name == "boundary")?;
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

fn malformed(why: &str) -> S3Error {
    S3Error::with_message(
        Code::MalformedPOSTRequest,
        format!("The body of your POST request is not well-formed multipart/form-data: {why}."),
    )
}

/// The head of one part: a name, a file's name, a content type.
const PART_HEAD_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Pieces(Vec<Bytes>);

    impl Source for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
            Ok((!self.0.is_empty()).then(|| self.0.remove(0)))
        }
    }

    type Parts = Vec<(String, Option<String>, Vec<u8>)>;

    fn read(body: &[u8], step: usize) -> Result<Parts, Code> {
        let mut headers = HeaderMap::new();
        let kind = "multipart/form-data; charset=utf-8; boundary=\"x-y\"";
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        let pieces = body.chunks(step.max(1)).map(Bytes::copy_from_slice);
        let mut form = Form::new(&headers, Pieces(pieces.collect())).unwrap();
        let work = async {
            let mut parts = Vec::new();
            while let Some(part) = form.part().await? {
                let mut data = Vec::new();
                while let Some(piece) = form.data().await? {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                parts.push((part.name, part.filename, data));
            }
            form.finish().await?;
            Ok(parts)
        };
        let work = std::pin::pin!(work);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(work).map_err(|error: S3Error| error.code)
    }

    fn part(name: &str, data: &[u8]) -> Vec<u8> {
        let head = format!("--x-y\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        [head.as_bytes(), data, b"\r\n"].concat()
    }

    #[test]
    fn parts_come_out_as_they_were_put_in() {
        let file = b"--x-y\r\ncontent-disposition: form-data; filename=\"C:\\a\\b%22.txt\"; \
                     name=file\r\nContent-Type: text/plain\r\n\r\n\r\n--x-\r\n--x-\r\n--x-y--\r\nend";
        let body = [part("key", b"a\r\nb"), part("empty", b""), file.to_vec()].concat();
        let want: Parts = vec![
            ("key".into(), None, b"a\r\nb".to_vec()),
            ("empty".into(), None, Vec::new()),
            (
                "file".into(),
                Some("C:\\a\\b%22.txt".into()),
                b"\r\n--x-\r\n--x-".to_vec(),
            ),
        ];
        for step in 1..body.len() {
            assert_eq!(read(&body, step).unwrap(), want, "{step}");
        }
        let preamble = [b"ignored\r\n".to_vec(), body].concat();
        assert_eq!(read(&preamble, 7).unwrap(), want);
        assert_eq!(read(b"--x-y--", 3).unwrap(), Parts::new());
    }

    #[test]
    fn sec_panics_what_is_no_form_is_malformed() {
        let whole = [part("key", b"value"), b"--x-y--\r\n".to_vec()].concat();
        for cut in 0..whole.len() - 4 {
            let answer = read(&whole[..cut], 4);
            assert_eq!(answer, Err(Code::MalformedPOSTRequest), "{cut}");
        }
        let long = "x".repeat(3 * PART_HEAD_BYTES_MAX);
        for head in [
            "",
            "Content-Type: text/plain",
            "Content-Disposition: attachment; name=a",
            "Content-Disposition: form-data; filename=a",
            &long,
        ] {
            let body = format!("--x-y\r\n{head}\r\n\r\ndata\r\n--x-y--\r\n");
            assert_eq!(read(body.as_bytes(), 100), Err(Code::MalformedPOSTRequest));
        }
        for kind in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "text/plain; boundary=a",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            let form = Form::new(&headers, Pieces(Vec::new()));
            assert_eq!(form.err().map(|e| e.code), Some(Code::PreconditionFailed));
        }
    }

    proptest! {
        #[test]
        fn any_data_in_any_pieces_comes_out_whole(
            data in prop::collection::vec(prop::sample::select(b"\r\n-xyz".to_vec()), 0..200),
            step in 1_usize..40,
        ) {
            prop_assume!(memmem::find(&[b"\r\n", &data[..]].concat(), b"\r\n--x-y").is_none());
            let body = [part("a", &data), part("b", b"1"), b"--x-y--".to_vec()].concat();
            let parts = read(&body, step).unwrap();
            prop_assert_eq!(&parts[0].2, &data);
            prop_assert_eq!(parts.len(), 2);
        }
    }
}
