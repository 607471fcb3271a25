//! Which instances a word on the command line means. Pure.

use super::documents::Instance;

/// Fewest characters of an ID that stand for all of it.
pub(super) const PREFIX_CHARS_MIN: usize = 4;
/// Most names that are offered instead of one that nobody has.
const SIMILAR_MAX: usize = 3;

/// The instances whose ID the word is, or begins; exact ones leave no room for others.
pub(super) fn by_id<'a>(word: &str, instances: &'a [Instance]) -> Vec<&'a Instance> {
    let exact: Vec<_> = instances.iter().filter(|it| it.id == word).collect();
    if !exact.is_empty() || word.chars().count() < PREFIX_CHARS_MIN {
        return exact;
    }
    instances
        .iter()
        .filter(|it| it.id.starts_with(word))
        .collect()
}

/// The instances of the service of this name; those that are gone only where there are no others.
pub(super) fn by_name<'a>(word: &str, instances: &'a [Instance]) -> Vec<&'a Instance> {
    let all: Vec<_> = instances.iter().filter(|it| it.name == word).collect();
    let here: Vec<_> = all.iter().filter(|it| !it.is_gone()).copied().collect();
    if here.is_empty() { all } else { here }
}

/// Known names that may have been meant: a third of the letters may differ, case and order of words do not
/// matter.
pub(super) fn similar<'a>(word: &str, known: &[&'a str]) -> Vec<&'a str> {
    let wanted = word.to_lowercase();
    let mut close: Vec<(usize, &str)> = known
        .iter()
        .filter_map(|name| {
            let candidate = name.to_lowercase();
            let distance = strsim::damerau_levenshtein(&wanted, &candidate);
            let length = wanted.chars().count().max(candidate.chars().count());
            let contains = wanted.chars().count() >= PREFIX_CHARS_MIN - 1
                && (candidate.contains(&wanted) || wanted.contains(&candidate));
            (distance * 3 <= length || contains || words(&wanted) == words(&candidate))
                .then_some((distance, *name))
        })
        .collect();
    close.sort_unstable();
    close.dedup();
    close.truncate(SIMILAR_MAX);
    close.into_iter().map(|(_, name)| name).collect()
}

/// The words of a name such as `orders-db` in alphabetical order.
fn words(name: &str) -> Vec<&str> {
    let mut words: Vec<&str> = name.split(['-', '_', '.', '/']).collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str, name: &str, status: &str) -> Instance {
        Instance {
            id: id.to_owned(),
            name: name.to_owned(),
            status: status.to_owned(),
            ..Instance::default()
        }
    }

    #[test]
    fn an_id_may_be_cut_short_but_not_too_short() {
        let known = [
            instance("abcd1", "web", "Alive"),
            instance("abcd12", "web", "Alive"),
            instance("ffff", "web", "Alive"),
        ];
        let ids = |word| {
            let found = by_id(word, &known).into_iter();
            found.map(|it| it.id.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(ids("abcd1"), ["abcd1"]);
        assert_eq!(ids("abcd"), ["abcd1", "abcd12"]);
        assert_eq!(ids("abc"), [""; 0]);
        assert_eq!(ids("ffff"), ["ffff"]);
        assert_eq!(ids("fffff"), [""; 0]);
    }

    #[test]
    fn what_is_gone_counts_only_where_nothing_else_is() {
        let known = [
            instance("a", "web", "Tombstone"),
            instance("b", "web", "Unhealthy"),
            instance("c", "db", "Tombstone"),
        ];
        let ids = |word| {
            let found = by_name(word, &known).into_iter();
            found.map(|it| it.id.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(ids("web"), ["b"]);
        assert_eq!(ids("db"), ["c"]);
    }

    #[test]
    fn names_that_may_have_been_meant() {
        let known = ["orders-db", "orders", "web", "payments", "Cart"];
        for (word, names) in [
            ("order-db", &["orders-db"][..]),
            ("db-orders", &["orders-db"]),
            ("wbe", &["web"]),
            ("cart", &["Cart"]),
            ("paymnets", &["payments"]),
            ("pay", &["payments"]),
            ("nothing", &[]),
            ("x", &[]),
        ] {
            let found = similar(word, &known);
            assert!(
                names.iter().all(|it| found.contains(it)),
                "{word}: {found:?}"
            );
            assert_eq!(found.is_empty(), names.is_empty(), "{word}: {found:?}");
        }
    }
}
