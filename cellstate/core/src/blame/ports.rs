//! Claims whose port is in use: whether it was at the base, and who took it since.

use plenum_model::{RefusalKind, RefusalReason, TakeOver};

use super::hindsight::Past;
use super::{About, Facts, Judge};

impl Judge<'_, '_> {
    /// Port 0: all dynamic ones are in use, and whoever came last took one of them.
    pub(super) fn no_port(&self, port: u16, about: &About<'_>) -> Facts {
        let facts = Facts { port: Some(port), ..Facts::plain(RefusalKind::Misfit, RefusalReason::PortTaken) };
        let past = self.past(about.machine);
        if !past.is_complete() {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        let was_there = if port == 0 { past.has_fewer_ports() } else { self.had_port(port, about, &past) };
        match past.port_taker(port).filter(|_| was_there) {
            Some(taker) => facts.blame(vec![self.culprit(&taker)], taker.amount),
            None => facts,
        }
    }

    /// Whether a claim would have got a port at the base: nobody had it then, or one from whom the claim wanted it.
    fn had_port(&self, port: u16, about: &About<'_>, past: &Past<'_>) -> bool {
        let holder = match past.holders_of(port) {
            [] => return true,
            &[holder] => holder,
            _ => return false,
        };
        let of_it = |most: &TakeOver| most.ports.is_empty() || most.ports.contains(&port);
        let wanted = about.sources.iter().find(|wanted| wanted.id == holder && wanted.most.is_none_or(of_it));
        wanted.is_some_and(|wanted| {
            let live = self.cell.allocation(holder);
            live.map_or_else(|| past.released(holder).is_some(), |source| self.gives(about, &source, wanted))
        })
    }
}
