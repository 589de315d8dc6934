//! What the cell is told of an agent's inventory when a machine is registered.

use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{BootId, Cell, Command, FoundMachine, Inventory, Machine};

/// Leaves out of a registration's inventory what the cell knows of the machine as well: thousands of tasks with their traces would be more
/// than a frame of the log has room for, and their machine could never come back. After a boot an inventory tells what had ended, so
/// then all of it counts. What ends before the registration is decided, and was left out, the agent stops: it is wanted no more.
///
/// `cell`: of a durable revision. Other commands stay as they are.
pub fn leave_out_known(cell: &Cell, command: &mut Command) {
    let Command::RegisterMachine(FoundMachine { name, boot_id, inventory, .. }) = command else { return };
    let same_boot = |machine: &&Arc<Machine>| machine.boot_id == BootId::from(boot_id.as_ref());
    let Some(machine) = cell.machine_named(name).filter(same_boot) else { return };
    let is_known =
        |item: &Inventory| cell.allocation(item.allocation).is_some_and(|found| found.row.machine == machine.id.slot);
    inventory.retain(|item| !is_known(item) || planted::is(Bug::ForgetsWhatItGranted));
}
