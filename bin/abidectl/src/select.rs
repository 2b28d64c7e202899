//! How partitions are written as arguments: `0`, `1-4`, and lists of these.

use std::ops::RangeInclusive;
use std::str::FromStr;

/// One partition, or some that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partitions(RangeInclusive<u16>);

impl FromStr for Partitions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.trim().parse::<u16>().map_err(|_| {
                format!("'{text}' is no partition; write 0, or 1-4 for several in a row")
            })
        };
        let range = match text.split_once('-') {
            Some((first, last)) => number(first)?..=number(last)?,
            None => {
                let only = number(text)?;
                only..=only
            }
        };
        if range.is_empty() {
            return Err(format!("{text} ends before it begins"));
        }
        Ok(Self(range))
    }
}

/// The numbers, each once and in order. None stands for all partitions.
pub(crate) fn numbers(selected: &[Partitions]) -> Vec<u32> {
    let mut numbers: Vec<u32> = selected
        .iter()
        .flat_map(|Partitions(range)| range.clone().map(u32::from))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Those rows that were selected; all if nothing was.
pub(crate) fn selects(selected: &[u32], partition: u32) -> bool {
    selected.is_empty() || selected.contains(&partition)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbers_and_ranges() {
        let parsed: Vec<Partitions> = ["7", "1-3", "2"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(numbers(&parsed), [1, 2, 3, 7]);
        for wrong in ["", "a", "4-2", "1-", "70000", "-1"] {
            assert!(wrong.parse::<Partitions>().is_err(), "{wrong}");
        }
    }
}
