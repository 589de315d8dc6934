//! The canaries of what is looked at after a crash: of a cell that has all its revisions, each thing that is not as it was told must be seen.

use super::super::cell::CrashCell;

/// A server refused to renew leases with an answer, and whoever looked at its status alone took that for a lease.
#[test]
fn a_lease_that_is_not_renewed_is_noticed() {
    let mut cell = CrashCell::new(109);
    let up = cell.start();
    cell.load.prepare(&up.address).unwrap();
    cell.load.renew_leases(&up.address).unwrap();
    cell.load.machines.iter_mut().for_each(|(_, epoch)| *epoch += 1);
    let refused = cell.load.renew_leases(&up.address).unwrap_err();
    assert!(refused.message().contains("no lease was renewed"), "{refused}");
}
