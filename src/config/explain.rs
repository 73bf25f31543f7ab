//! Makes a parser's error an answer: file, line, column, key, and what would be right.

/// One paragraph for the operator about the first thing that is wrong with `source`.
pub(super) fn explain(name: &str, source: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let place = Place::of(source, at);
    let what = match unknown_key(error.message()) {
        Some((key, allowed)) => unknown(&place, key, &allowed),
        None => match place.key() {
            Some(key) => format!("`{key}`: {}", in_toml_words(error.message())),
            None if error.message() == TABLE_FOR_LIST => format!(
                "there may be several of these; write [[{0}]] instead of [{0}]",
                place.section
            ),
            None => in_toml_words(error.message()),
        },
    };
    format!(
        "{name}, line {}, column {}: {what}\n  {}",
        place.line, place.column, place.text
    )
}

/// Puts file and line before a message about a value whose full key it names in back quotes. The
/// key of what stands below the second `[[auth.user]]` begins with `auth.user[2]`.
pub(super) fn locate(name: &str, source: &str, message: &str) -> String {
    let named = message.split('`').skip(1).step_by(2);
    let line = named.filter_map(|key| nearest_line(source, key)).next();
    match line {
        Some((line, text)) => format!("{name}, line {line}: {message}\n  {text}"),
        None => message.to_owned(),
    }
}

/// The line of a dotted key, or of the one that it is inside of: tables may be written in a line.
fn nearest_line<'a>(source: &'a str, key: &str) -> Option<(usize, &'a str)> {
    let above = || nearest_line(source, key.rsplit_once('.')?.0);
    line_of(source, key).or_else(above)
}

/// Number and text of the line that sets a dotted key, or that opens a section of that name.
fn line_of<'a>(source: &'a str, key: &str) -> Option<(usize, &'a str)> {
    let mut section = String::new();
    let mut lists = Vec::new();
    let is_it = |(_, line): &(usize, &str)| {
        if let Some(name) = section_of(line) {
            section = name.to_owned();
            if line.trim_start().starts_with("[[") {
                lists.push(name.to_owned());
                let count = lists.iter().filter(|list| *list == name).count();
                section = format!("{name}[{count}]");
            }
            return section == key;
        }
        let set = line.split_once('=').map(|(set, _)| set.trim());
        let set = set.map(|set| set.trim_matches(['"', '\'']));
        set.is_some_and(|set| match section.as_str() {
            "" => set == key,
            section => {
                key.strip_prefix(section)
                    .and_then(|key| key.strip_prefix('.'))
                    == Some(set)
            }
        })
    };
    let (index, line) = source.lines().enumerate().find(is_it)?;
    Some((index + 1, line))
}

/// The parser speaks of Rust's types where people write TOML's.
fn in_toml_words(message: &str) -> String {
    let words = [
        ("expected usize", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected path string", "expected a path in quotes"),
        ("expected a string", "expected text in quotes"),
        ("expected a boolean", "expected true or false"),
        (
            "expected a sequence",
            "expected a list, such as [\"one\", \"two\"]",
        ),
        ("expected a map", "expected a table"),
        (
            "string values must be quoted, expected literal string",
            "expected a value; text stands in quotes",
        ),
        ("unknown variant", "there is no"),
        ("missing field", "this section lacks"),
    ];
    let replace = |message: String, (from, to): (&str, &str)| message.replace(from, to);
    words.into_iter().fold(message.to_owned(), replace)
}

fn unknown(place: &Place, key: &str, allowed: &[&str]) -> String {
    let section = if place.section.is_empty() || place.text.trim_start().starts_with('[') {
        String::new()
    } else {
        format!(" in [{}]", place.section)
    };
    let near = allowed
        .iter()
        .map(|candidate| (distance(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min();
    let hint = match near {
        Some((_, near)) => format!("; did you mean `{near}`?"),
        None => ".".to_owned(),
    };
    let allowed = allowed.join(", ");
    format!("unknown key `{key}`{section}{hint} Known keys: {allowed}.")
}

/// Where an error is: line and column count from 1, the column in characters.
struct Place<'a> {
    line: usize,
    column: usize,
    text: &'a str,
    section: &'a str,
}

impl<'a> Place<'a> {
    fn of(source: &'a str, at: usize) -> Self {
        let before = source.get(..at).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = source
            .get(line_start..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let section = source
            .get(..line_start + text.len())
            .unwrap_or_default()
            .lines()
            .rev()
            .find_map(section_of)
            .unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            text,
            section,
        }
    }

    /// The dotted key of a line `key = value`.
    fn key(&self) -> Option<String> {
        let (key, _) = self.text.split_once('=')?;
        let key = key.trim();
        Some(if self.section.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.section)
        })
    }
}

fn section_of(line: &str) -> Option<&str> {
    let line = line.trim();
    let header = line.split('#').next()?.trim();
    let inner = header.strip_prefix('[')?.strip_suffix(']')?;
    let inner = inner
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(inner);
    (!inner.contains(['"', ','])).then_some(inner.trim())
}

/// The key and the keys that would have been right, from serde's words for an unknown field.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let key = quoted.next()?;
    Some((key, quoted.collect()))
}

/// Levenshtein's edit distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (left + 1)
                .min(above + 1)
                .min(diagonal + usize::from(x != y));
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// What the parser says of `[auth.user]`.
const TABLE_FOR_LIST: &str = "invalid type: map, expected a sequence";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("liste", "listen"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_message_that_names_a_key_gets_its_line() {
        let source = "# head\n[server]\nthreads = 5000\n[server.limits]\nconnections = 0\n";
        assert_eq!(
            locate(
                "lobos.cfg",
                source,
                "`server.limits.connections` must be 1 or more"
            ),
            "lobos.cfg, line 5: `server.limits.connections` must be 1 or more\n  connections = 0"
        );
        assert_eq!(
            locate("lobos.cfg", source, "`x`; `server.threads` is 5000"),
            "lobos.cfg, line 3: `x`; `server.threads` is 5000\n  threads = 5000"
        );
        assert_eq!(
            locate("lobos.cfg", source, "no `such.key`"),
            "no `such.key`"
        );
    }

    #[test]
    fn a_key_of_a_list_or_of_a_table_in_a_line_is_found() {
        let source = "[[auth.user]]\nname = \"a\"\n[[auth.user]]\nname = \"b\"\n\
                      [filesystem]\nbuckets = { \"A B\" = \"x\" }\n";
        let line = |key: &str| {
            let text = locate("lobos.cfg", source, &format!("`{key}` is wrong"));
            text.lines().last().map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(line("auth.user[2].name"), "  name = \"b\"");
        assert_eq!(line("auth.user[2].secret_key"), "  [[auth.user]]");
        assert_eq!(
            line("filesystem.buckets.A B"),
            "  buckets = { \"A B\" = \"x\" }"
        );
        assert_eq!(line("filesystem.root"), "  [filesystem]");
        assert_eq!(line("tls.cert"), "`tls.cert` is wrong");
        let quoted = "[filesystem.buckets]\n'A.B' = \"x\"\n";
        let text = locate("lobos.cfg", quoted, "`filesystem.buckets.A.B` is wrong");
        assert!(text.contains("line 2"), "{text}");
    }

    #[test]
    fn errors_say_where_which_key_and_what_would_be_right() {
        let said = |source: &str| {
            let error = toml::from_str::<super::super::raw::File>(source).unwrap_err();
            explain("lobos.cfg", source, &error)
        };
        for (source, parts) in [
            (
                "\n[server]\nlissten = 1\n",
                "line 3, column 1|`lissten`|[server]|mean `listen`",
            ),
            ("[serve]\n", "line 1|`serve`|mean `server`"),
            (
                "[server]\nthreads = \"x\"\n",
                "line 2, column 11|`server.threads`|a whole number",
            ),
            ("[server]\nauth = 1\n", "`server.auth`|true or false"),
            (
                "[server]\nlisten = 8080\n",
                "`server.listen`|text or a list of texts",
            ),
            ("[server]\nlisten = \"8080\"\n", "`server.listen`|HOST:PORT"),
            ("[server]\ndomains = \"x\"\n", "`server.domains`|a list"),
            (
                "[server.limits]\nin_flight = 1.5\n",
                "`server.limits.in_flight`|\"64 MiB\"",
            ),
            (
                "[server.timeouts]\nhead = -1\n",
                "`server.timeouts.head`|\"30s\"",
            ),
            (
                "[filesystem]\nfile_mode = 640\n",
                "`filesystem.file_mode`|text in quotes",
            ),
            (
                "[filesystem.buckets]\nabc = 1\n",
                "`filesystem.buckets.abc`|a path in quotes",
            ),
            (
                "[log]\nformat = \"xml\"\n",
                "`log.format`|no `xml`|`text` or `json`",
            ),
            ("[auth.user]\nname = \"a\"\n", "line 1|[[auth.user]]"),
            (
                "[[auth.user]]\nacces_key = \"a\"\n",
                "line 2|mean `access_key`",
            ),
            ("[tls]\ncert = \"a\"\n", "line 1|lacks `key`"),
            ("[server\n", "line 1|expected `]`"),
            ("[server]\npin =\n", "`server.pin`|expected a value"),
        ] {
            let text = said(source);
            for part in parts.split('|') {
                assert!(text.contains(part), "{source:?}: no {part:?} in {text}");
            }
            let line = text.lines().last().unwrap().trim();
            assert!(source.contains(line), "the line itself: {text}");
        }
    }
}
