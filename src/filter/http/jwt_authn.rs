//! x
mod effects;
mod extract;
mod keys;
mod provider;
mod requirement;
mod status;
mod token;
