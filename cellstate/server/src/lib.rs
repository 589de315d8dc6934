//! The cell's server: ingress, group commit, publishing, sync sessions and the API.
