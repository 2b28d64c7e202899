//! Makes a failing program small: takes out whatever it fails without.

use serde_json::Value;

use crate::program::Program;

/// The smallest program found that still fails, within so many tries.
pub async fn minimise<F>(program: Program, mut tries: u32, mut fails: F) -> Program
where
    F: AsyncFnMut(&Program) -> bool,
{
    let mut best = serde_json::to_value(&program).expect("programs are JSON");
    loop {
        let mut progress = false;
        for chunk in [8, 4, 2, 1] {
            let mut turn = 0;
            while let Some(candidate) = without(&best, chunk, turn) {
                turn += 1;
                let Ok(smaller) = serde_json::from_value::<Program>(candidate.clone()) else {
                    continue;
                };
                if smaller.roots.is_empty() {
                    continue;
                }
                if tries == 0 {
                    return serde_json::from_value(best).expect("it was a program");
                }
                tries -= 1;
                if fails(&smaller).await {
                    best = candidate;
                    progress = true;
                    turn = turn.saturating_sub(1);
                }
            }
        }
        if !progress {
            return serde_json::from_value(best).expect("it was a program");
        }
    }
}

/// The program without the `turn`th run of `chunk` neighbours in any of its lists.
fn without(program: &Value, chunk: usize, turn: usize) -> Option<Value> {
    let mut smaller = program.clone();
    let mut left = turn;
    take_out(&mut smaller, chunk, &mut left).then_some(smaller)
}

fn take_out(value: &mut Value, chunk: usize, left: &mut usize) -> bool {
    match value {
        Value::Array(items) => {
            // Pairs such as a key and its value are no lists of things to leave out.
            let removable = items
                .iter()
                .all(|item| item.is_object() || item.is_string());
            if removable && items.len() >= chunk {
                let places = items.len() - chunk + 1;
                if *left < places {
                    items.drain(*left..*left + chunk);
                    return true;
                }
                *left -= places;
            }
            items.iter_mut().any(|item| take_out(item, chunk, left))
        }
        Value::Object(fields) => fields
            .values_mut()
            .any(|field| take_out(field, chunk, left)),
        _ => false,
    }
}
