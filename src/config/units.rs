//! Values that people write with a unit: sizes, durations, addresses, modes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A number of bytes: an integer, or text such as `"64 MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub bytes: u64,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, &SIZE_UNITS)
            .map(|bytes| Self { bytes })
            .ok_or_else(|| {
                format!("`{text}` is no size; write bytes, or a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, such as \"64 MiB\"")
            })
    }
}

/// Bytes, as they are written: `67108864`, `64 MiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<Size>().map(|size| size.bytes)
}

/// Where a blob store lies, as it is written: `/srv/lobos.img`, `lobos.img:10GiB`, `/dev/nvme1n1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPlace {
    pub path: PathBuf,
    /// Of the file, if it has to be made.
    pub size_bytes: Option<u64>,
}

impl FromStr for BlobPlace {
    type Err = String;

    /// What stands behind the last colon is a size if it begins with a digit.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, size) = match text.rsplit_once(':') {
            Some((path, size)) if size.starts_with(|c: char| c.is_ascii_digit()) => {
                (path, Some(size.parse::<Size>()?.bytes))
            }
            _ => (text, None),
        };
        if path.is_empty() {
            return Err(
                "the path is missing; write PATH or PATH:SIZE, such as lobos.img:10GiB".into(),
            );
        }
        Ok(Self {
            path: path.into(),
            size_bytes: size,
        })
    }
}

/// A span of time in whole seconds: an integer, or text such as `"30s"` or `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub seconds: u64,
}

impl Span {
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, &SPAN_UNITS)
            .map(|seconds| Self { seconds })
            .ok_or_else(|| {
                format!("`{text}` is no duration; write seconds, or a number with s, m, h or d, such as \"30s\"")
            })
    }
}

/// Where to listen, as it is written: `127.0.0.1:8080`, `[::1]:8080`, `myhost:0`, `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp { host: Box<str>, port: u16 },
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` lacks the socket's path; write unix:/path".into());
            }
            return Ok(Self::Unix(path.into()));
        }
        let wrong = || {
            format!(
                "`{text}` is no address; write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, or unix:/path"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => host,
            _ => return Err(wrong()),
        };
        Ok(Self::Tcp {
            host: host.into(),
            port,
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A permission mode in octal text, such as `"0640"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub bits: u32,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| *bits <= 0o7777)
            .map(|bits| Self { bits })
            .ok_or_else(|| format!("`{text}` is no mode; write it in octal, such as \"0640\""))
    }
}

/// One value or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items<T>(std::marker::PhantomData<T>);
        impl<'de, T: FromStr<Err = String>> Visitor<'de> for Items<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(vec![text.parse().map_err(E::custom)?])
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(Parsed(item)) = seq.next_element::<Parsed<T>>()? {
                    items.push(item);
                }
                Ok(items)
            }
        }
        from.deserialize_any(Items(std::marker::PhantomData))
            .map(Self)
    }
}

/// Text that is parsed where the file is read, so that an error carries its line.
struct Parsed<T>(T);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

/// `Deserialize` of a type that is written as text or as an integer.
macro_rules! text_or_integer {
    ($type:ident, $field:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Value;
                impl Visitor<'_> for Value {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_i64<E: de::Error>(self, $field: i64) -> Result<Self::Value, E> {
                        let $field = u64::try_from($field)
                            .map_err(|_| E::invalid_value(de::Unexpected::Signed($field), &self))?;
                        Ok($type { $field })
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                from.deserialize_any(Value)
            }
        }
    };
}

text_or_integer!(
    Size,
    bytes,
    "a size such as \"64 MiB\", or a number of bytes"
);
text_or_integer!(
    Span,
    seconds,
    "a duration such as \"30s\", or a number of seconds"
);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Parsed::deserialize(from).map(|Parsed(listen)| listen)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Parsed::deserialize(from).map(|Parsed(mode)| mode)
    }
}

/// As one word of a shell, whatever it holds.
pub fn shell_quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:@%+,=[]".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) && !text.contains(['[', ']']) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const SPAN_UNITS: [(&str, u64); 6] = [
    ("", 1),
    ("s", 1),
    ("m", 60),
    ("min", 60),
    ("h", 3600),
    ("d", 86_400),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_take_the_units_that_the_documentation_names() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.bytes);
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(size("0"), Ok(0));
        for wrong in ["", "MiB", "1.5 GiB", "-1", "1 mib", "99999999999 TiB", "é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        let span = |text: &str| text.parse::<Span>().map(|span| span.seconds);
        assert_eq!(span("7d"), Ok(604_800));
        assert_eq!(span("90"), Ok(90));
        for wrong in ["", "s", "1.5s", "10 years", "1w"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn listen_addresses_are_read_and_written_the_same() {
        for text in [
            "127.0.0.1:8080",
            "[::1]:0",
            "example.org:80",
            "unix:/run/lobos.sock",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "8080",
            ":8080",
            "::1:8080",
            "[::1]",
            "host:99999",
            "unix:",
            "a b:1",
        ] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
