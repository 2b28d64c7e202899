//! What is registered: deployments, services, handlers and their settings.
