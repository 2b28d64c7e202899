//! What is registered: `sys_deployment`, `sys_service`, `sys_rules`.

use std::sync::Arc;

use abide_schema::Deployment;
use abide_types::{DeploymentId, ServiceKind};

use crate::column::{Column, Ty};
use crate::provider::LocalTable;
use crate::source::{Rule, Sources};
use crate::tables::Tables;

struct Service {
    name: String,
    revision: u32,
    public: bool,
    kind: ServiceKind,
    deployment: DeploymentId,
}

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let deployments = LocalTable::new(
        deployment_columns(),
        Box::new(|sources| {
            Box::pin(async move {
                let schema = sources.schema();
                Ok(schema.deployments().cloned().collect())
            })
        }),
        sources.clone(),
    );
    tables.insert("sys_deployment", Arc::new(deployments));
    let services = LocalTable::new(
        service_columns(),
        Box::new(|sources| Box::pin(async move { Ok(services(&sources)) })),
        sources.clone(),
    );
    tables.insert("sys_service", Arc::new(services));
    let rules = LocalTable::new(
        rule_columns(),
        Box::new(|sources| Box::pin(async move { sources.flow_control.rules().await })),
        sources.clone(),
    );
    tables.insert("sys_rules", Arc::new(rules));
}

fn services(sources: &Sources) -> Vec<Service> {
    let schema = sources.schema();
    let services = schema.services().map(|service| Service {
        name: service.name.clone(),
        revision: service.revision,
        public: service.public,
        kind: service.kind,
        deployment: service.deployment,
    });
    services.collect()
}

fn deployment_columns() -> Vec<Column<Deployment>> {
    vec![
        Column::new("id", Ty::Text, |row| row.id.to_string().into()),
        // Others cannot be registered.
        Column::new("ty", Ty::Text, |_| "http".into()),
        Column::new("endpoint", Ty::Text, |row| (&row.uri).into()),
        Column::new("created_at", Ty::Time, |row| row.created_at.into()),
        Column::new("min_service_protocol_version", Ty::U32, |row| {
            row.min_protocol_version.into()
        }),
        Column::new("max_service_protocol_version", Ty::U32, |row| {
            row.max_protocol_version.into()
        }),
        Column::new("services", Ty::Texts, |row| {
            row.services.keys().cloned().collect::<Vec<_>>().into()
        }),
    ]
}

fn service_columns() -> Vec<Column<Service>> {
    vec![
        Column::new("name", Ty::Text, |row| (&row.name).into()),
        Column::new("revision", Ty::U64, |row| row.revision.into()),
        Column::new("public", Ty::Bool, |row| row.public.into()),
        Column::new("ty", Ty::Text, |row| {
            match row.kind {
                ServiceKind::Service => "service",
                ServiceKind::VirtualObject => "virtual_object",
                ServiceKind::Workflow => "workflow",
            }
            .into()
        }),
        Column::new("deployment_id", Ty::Text, |row| {
            row.deployment.to_string().into()
        }),
    ]
}

fn rule_columns() -> Vec<Column<Rule>> {
    vec![
        Column::new("pattern", Ty::Text, |row| (&row.pattern).into()),
        Column::new("concurrency", Ty::U32, |row| row.concurrency.into()),
        Column::new("description", Ty::Text, |row| {
            row.description.as_ref().into()
        }),
        Column::new("disabled", Ty::Bool, |row| row.disabled.into()),
        Column::new("version", Ty::U32, |row| row.version.into()),
        Column::new("last_modified", Ty::Time, |row| row.last_modified.into()),
    ]
}
