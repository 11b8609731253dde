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
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(REGEX_COMPILED_BYTES_MAX)
                .dfa_size_limit(REGEX_COMPILED_BYTES_MAX)
                .nest_limit(REGEX_NESTING_MAX)
                .build()
                .map_err(|_| GroupError::InvalidRegex)
        };
        // By itself first: `a)|(b` is whole only between parentheses that are not its own.
        build(text)?;
        Ok(Pattern(build(&format!("\\A(?:{text})\\z"))?))
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
    fn what_is_no_pattern_or_too_large_a_one_is_refused() {
        let nested = "(".repeat(500) + &")".repeat(500);
        for bad in
            ["(", "a)|(b", "[z-a]", "\\1", "(?=a)", "(?:a{1000}){1000}", &nested, &"a".repeat(REGEX_BYTES_MAX + 1)]
        {
            assert_eq!(Pattern::new(bad).err(), Some(GroupError::InvalidRegex), "{bad:.20}");
        }
    }
}
