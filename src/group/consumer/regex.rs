//! Subscriptions by pattern (RE2's syntax), resolved on the coordinator, which knows all topics.

use crate::group::coordinator::GroupError;
use crate::group::settings::{REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX, REGEX_NESTING_MAX};
use crate::group::topic::is_internal;
use crate::ids::TopicId;
use crate::metadata::image::Image;
use regex::{Regex, RegexBuilder};
use std::collections::BTreeSet;

/// A pattern that topics' whole names are matched with.
pub struct Pattern(Regex);

impl Pattern {
    pub fn new(text: &str) -> Result<Pattern, GroupError> {
        if text.len() > REGEX_BYTES_MAX {
            return Err(GroupError::InvalidRegex);
        }
        let text = translated(text);
        // By itself first: `a)|(b` is whole only between parentheses that are not its own.
        build(&text)?;
        Ok(Pattern(build_whole(&text)?))
    }

    /// One that [`Pattern::new`] let through before: it is compiled once, not twice.
    pub fn again(text: &str) -> Result<Pattern, GroupError> {
        Ok(Pattern(build_whole(&translated(text))?))
    }

    /// The topics that match, without those that are the cluster's own.
    pub fn resolve(&self, image: &Image) -> BTreeSet<TopicId> {
        self.among(&image.topic_ids)
    }

    pub fn among<'a>(&self, topics: impl IntoIterator<Item = (&'a String, &'a TopicId)>) -> BTreeSet<TopicId> {
        let matching = topics.into_iter().filter(|(name, _)| !is_internal(name) && self.0.is_match(name));
        matching.map(|(_, id)| *id).collect()
    }
}

fn build(text: &str) -> Result<Regex, GroupError> {
    RegexBuilder::new(text)
        .size_limit(REGEX_COMPILED_BYTES_MAX)
        .dfa_size_limit(REGEX_COMPILED_BYTES_MAX)
        .nest_limit(REGEX_NESTING_MAX)
        .build()
        .map_err(|_| GroupError::InvalidRegex)
}

fn build_whole(text: &str) -> Result<Regex, GroupError> {
    build(&format!("\\A(?:{text})\\z"))
}

/// The same pattern in the regex crate's syntax, where that differs: RE2 quotes with `\Q…\E`, and knows neither classes
/// within classes nor `&&`, `--` and `~~` between them.
fn translated(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix("\\Q") {
            // Without an end it goes on to the pattern's.
            let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            out.push_str(&regex::escape(literal));
            rest = after;
        } else if next == '[' {
            rest = translate_class(rest, &mut out);
        } else {
            rest = take(rest, if next == '\\' { 2 } else { 1 }, &mut out);
        }
    }
    out
}

/// `text` begins with a class; what follows it is left. A class without an end is left to the compiler to refuse.
fn translate_class<'a>(text: &'a str, out: &mut String) -> &'a str {
    let mut rest = take(text, if text.starts_with("[^") { 2 } else { 1 }, out);
    // First in its class even this stands for itself.
    let mut is_first = true;
    while !rest.is_empty() && (is_first || !rest.starts_with(']')) {
        is_first = false;
        if let Some(name) = named_class(rest) {
            rest = take(rest, name, out);
            continue;
        }
        rest = translate_item(rest, out);
        // A range, unless the class ends here.
        if let Some(end) = rest.strip_prefix('-').filter(|end| !end.is_empty() && !end.starts_with(']')) {
            out.push('-');
            rest = translate_item(end, out);
        }
    }
    take(rest, 1, out)
}

/// How many characters of `[:alpha:]`, `\d` or `\p{Greek}` it begins with: none of them begins a range.
fn named_class(text: &str) -> Option<usize> {
    let through = |end: &str| text.find(end).map(|at| text[..at + end.len()].chars().count());
    if text.starts_with("[:") {
        return through(":]");
    }
    match text.strip_prefix('\\')?.chars().next()? {
        'd' | 'D' | 's' | 'S' | 'w' | 'W' => Some(2),
        'p' | 'P' if text[2..].starts_with('{') => through("}"),
        'p' | 'P' => Some(3),
        _ => None,
    }
}

/// One character of a class, which stands for itself whatever it is, or an escape.
fn translate_item<'a>(text: &'a str, out: &mut String) -> &'a str {
    match text.chars().next() {
        Some('\\') if text.starts_with("\\x{") => take(text, text.find('}').map_or(3, |at| at + 1), out),
        Some('\\') if text.starts_with("\\x") => take(text, 4, out),
        Some('\\') => take(text, 2, out),
        Some('[' | ']' | '&' | '-' | '~') => {
            out.push('\\');
            take(text, 1, out)
        }
        _ => take(text, 1, out),
    }
}

/// Passes characters on as they are; what follows them.
fn take<'a>(text: &'a str, count: usize, out: &mut String) -> &'a str {
    let end = text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    out.push_str(&text[..end]);
    &text[end..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::consumer::testing::topic;

    fn matching(text: &str) -> Vec<String> {
        let mut image = Image::default();
        for name in ["a", "ab", "b", "orders.1", "__consumer_offsets"] {
            topic(&mut image, name, 1);
        }
        let found = Pattern::new(text).unwrap().resolve(&image);
        found.into_iter().map(|id| image.topic(id).unwrap().name.clone()).collect()
    }

    #[test]
    fn whole_names_match_and_internal_topics_never_do() {
        assert_eq!(matching("a|ab"), ["a", "ab"]);
        assert_eq!(matching("a"), ["a"]);
        assert_eq!(matching("orders\\.\\d+"), ["orders.1"]);
        assert_eq!(matching(".*"), ["a", "ab", "b", "orders.1"]);
        assert_eq!(matching(""), Vec::<String>::new());
    }

    #[test]
    fn a_pattern_that_is_compiled_again_is_the_same() {
        for text in ["a|ab", "\\Qa\\E", "[a[b]"] {
            assert_eq!(Pattern::again(text).unwrap().0.as_str(), Pattern::new(text).unwrap().0.as_str());
        }
    }

    #[test]
    fn what_re2_quotes_stands_for_itself() {
        assert_eq!(matching("\\Qorders.1\\E"), ["orders.1"]);
        assert_eq!(matching("\\Qorders.\\E\\d"), ["orders.1"]);
        assert_eq!(matching("\\Qo.ders.1"), Vec::<String>::new());
        assert_eq!(matching("(\\Qa\\E|\\Qb\\E)"), ["a", "b"]);
        let same = |text: &str, expected: &str| assert_eq!(translated(text), expected, "{text}");
        same("\\Qa.b\\E+\\\\Q", "a\\.b+\\\\Q");
        same("\\Q(", "\\(");
        same("\\[\\Q[\\E]", "\\[\\[]");
    }

    #[test]
    fn classes_are_re2s() {
        let holds = |class: &str, all: &str, none: &str| {
            let pattern = Pattern::new(class).unwrap_or_else(|_| panic!("{class}"));
            assert!(all.chars().all(|one| pattern.0.is_match(&one.to_string())), "{class}");
            assert!(!none.chars().any(|one| pattern.0.is_match(&one.to_string())), "{class}");
        };
        holds("[a[b]", "a[b", "]c");
        holds("[a&&b]", "a&b", "c");
        holds("[a~~b]", "a~b", "c");
        holds("[+--]", "+,-", ".a");
        holds("[--/]", "-./", "a,");
        holds("[]a-c-]", "]abc-", "d");
        holds("[^]a]", "b[", "]a");
        holds("[[:digit:]_-]", "09_-", "a:[");
        holds("[\\d-z]", "0-z", "ay");
        holds("[\\p{Greek}\\pN.]", "α1.", "a{");
        holds("[\\x{61}-\\x63\\]]", "abc]", "dx{");
    }

    #[test]
    fn what_is_no_pattern_or_too_large_a_one_is_refused() {
        let nested = "(".repeat(500) + &")".repeat(500);
        for bad in [
            "(",
            "a)|(b",
            "[z-a]",
            "[a--]",
            "[",
            "[]",
            "[a",
            "[[:",
            "\\",
            "[\\",
            "a\\E",
            "\\1",
            "(?=a)",
            "(?:a{1000}){1000}",
            &nested,
            &"a".repeat(REGEX_BYTES_MAX + 1),
        ] {
            assert_eq!(Pattern::new(bad).err(), Some(GroupError::InvalidRegex), "{bad:.20}");
        }
    }
}
