//! Random programs while nodes are killed, for a short time; `scripts/kill-drill` does it for long.

use std::time::Duration;

use abide_test_differential::drill::{self, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn programs_under_kills_come_to_what_they_should() {
    let report = drill::run(Plan {
        seed: 1,
        duration: Duration::from_secs(20),
        at_a_time: 4,
    })
    .await;
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.programs > 0, "nothing was run");
}
