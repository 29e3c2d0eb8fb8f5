//! Modules side by side that import each other in a circle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{names::Arrow, tree::Tree};

/// The names that a file takes from another, by both.
type Taken<'a> = BTreeMap<(usize, usize), BTreeSet<&'a str>>;

/// What modules with the same parent take from each other, by both, everything below a module being part of it.
type Level<'a> = BTreeMap<(usize, usize), Taken<'a>>;

/// The shortest circle, the shortest of what is left without its arrows, and so on, for the modules below each parent.
pub(super) fn circles(tree: &Tree, arrows: &[Arrow]) -> Vec<String> {
    let mut levels: BTreeMap<usize, Level<'_>> = BTreeMap::new();
    for arrow in arrows {
        if let Some((parent, from, to)) = level(tree, arrow) {
            let taken = levels.entry(parent).or_default().entry((from, to)).or_default();
            taken.entry((arrow.from, arrow.to)).or_default().insert(&arrow.name);
        }
    }
    let mut found = Vec::new();
    for mut level in levels.into_values() {
        while let Some(circle) = shortest(&level, tree) {
            let steps = circle.iter().zip(circle.iter().cycle().skip(1));
            let taken: Vec<_> = steps.filter_map(|(from, to)| level.remove(&(*from, *to))).collect();
            found.push(describe(tree, &taken));
        }
    }
    found.sort();
    found
}

/// The parent where the ways to both ends part, and its children on these ways. None if one end is above the other.
fn level(tree: &Tree, arrow: &Arrow) -> Option<(usize, usize, usize)> {
    let (from, to) = (tree.files_above(arrow.from), tree.files_above(arrow.to));
    let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
    Some((*from.get(common.checked_sub(1)?)?, *from.get(common)?, *to.get(common)?))
}

/// The shortest circle, from the first of its modules by name on.
fn shortest(level: &Level<'_>, tree: &Tree) -> Option<Vec<usize>> {
    let mut modules: Vec<_> = level.keys().map(|(from, _)| *from).collect();
    modules.dedup();
    modules.sort_by_key(|module| tree.file(*module));
    modules.into_iter().filter_map(|module| way_back(level, module)).min_by_key(Vec::len)
}

/// The shortest way from a module to itself.
fn way_back(level: &Level<'_>, start: usize) -> Option<Vec<usize>> {
    let mut queue = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = queue.pop_front() {
        let last = *way.last()?;
        for (_, next) in level.keys().filter(|(from, _)| *from == last) {
            if *next == start {
                return Some(way);
            }
            if seen.insert(*next) {
                queue.push_back([&way[..], &[*next]].concat());
            }
        }
    }
    None
}

/// `a.rs -> b.rs (name) -> a.rs (name)`. Where the next arrow begins in another file of the same module, the file is named.
fn describe(tree: &Tree, circle: &[Taken<'_>]) -> String {
    let mut text = String::new();
    let mut last = None;
    for taken in circle {
        let goes_on = taken.iter().find(|((from, _), _)| Some(*from) == last);
        let Some(((from, to), names)) = goes_on.or_else(|| taken.iter().next()) else { continue };
        if Some(*from) != last {
            let before = if last.is_some() { "; " } else { "" };
            text.push_str(&format!("{before}{}", tree.file(*from)));
        }
        let names = Vec::from_iter(names.iter().copied()).join(", ");
        let more = match taken.len() - 1 {
            0 => String::new(),
            1 => "; 1 more pair of files".to_owned(),
            more => format!("; {more} more pairs of files"),
        };
        text.push_str(&format!(" -> {} ({names}{more})", tree.file(*to)));
        last = Some(*to);
    }
    text
}
