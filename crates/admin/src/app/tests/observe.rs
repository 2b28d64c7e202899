//! Status and log filter, with somebody who looks and somebody who refuses.

use crate::observe::{FilterChange, FilterState, Observer};

use super::*;

struct Looks {
    knows: bool,
    filter: Mutex<String>,
}

#[async_trait]
impl Observer for Looks {
    async fn stats(&self) -> Result<Value, String> {
        match self.knows {
            true => Ok(json!({ "status": "well" })),
            false => Err("it waits for a majority".to_owned()),
        }
    }

    fn log_filter(&self, change: FilterChange) -> FilterState {
        let mut filter = self.filter.lock().unwrap();
        let mut refused = None;
        match change {
            FilterChange::None => {}
            FilterChange::Reset => "info".clone_into(&mut filter),
            FilterChange::Set(wished) if wished == "loud" => refused = Some("no level".to_owned()),
            FilterChange::Set(wished) => *filter = wished,
        }
        FilterState {
            filter: filter.clone(),
            configured: "info".to_owned(),
            refused,
        }
    }
}

fn looked_into(knows: bool) -> Api {
    let filter = Mutex::new("info".to_owned());
    observed(Some(Arc::new(Looks { knows, filter })))
}

#[tokio::test]
async fn the_status_is_shown_or_why_it_is_not_known() {
    let path = "/api/v1/cluster/stats";
    let known = looked_into(true).get(path).await;
    check(
        known,
        "ID",
        expect![[r#"
        200 {"status":"well"}
    "#]],
    );
    check_error(
        looked_into(false).get(path).await,
        503,
        "The cluster's status is not known: it waits for a majority",
    );
    assert_eq!(api().get(path).await.0, 501);
}

#[tokio::test]
async fn a_filter_is_set_reset_and_refused() {
    let api = looked_into(true);
    let path = "/api/v1/log-filter";
    let set = async |filter: &str| api.ask("PUT", path, json!({ "filter": filter })).await;
    check(
        set("debug").await,
        "ID",
        expect![[r#"
        200 {"filter":"debug","configured":"info"}
    "#]],
    );
    check_error(set("loud").await, 400, "Not a log filter: no level");
    check(
        api.get(path).await,
        "ID",
        expect![[r#"
        200 {"filter":"debug","configured":"info"}
    "#]],
    );
    check(
        api.ask("DELETE", path, Value::Null).await,
        "ID",
        expect![[r#"
        200 {"filter":"info","configured":"info"}
    "#]],
    );
    assert_eq!(api.ask("PUT", path, json!({})).await.0, 422);
}
