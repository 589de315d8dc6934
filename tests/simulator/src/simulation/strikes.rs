//! Faults, as they strike.

use plenum_journal::SimOperation;
use plenum_model::planted::{self, Bug};

use super::Simulation;
use crate::agent::Machine;
use crate::books::{Checked, Violation, hold};
use crate::faults::Fault;
use crate::report::Tally;
use crate::rot;
use crate::seen::Seen;
use crate::server::{self, NotStarted};
use crate::world::{Event, Party, Side, Sleeper, World};

/// A disk that is full at once, or soon: a segment with what belongs to a log.
const DISK_BYTES: u64 = 70_000;
/// What a server finds that does not get its log opened: see [`server::start`].
const LOG_REFUSED: &str = "invariant_a_crash_is_no_damage";
/// A read that fails comes after so many others, as a power of two at most: a start reads a file or two at the least, and hundreds of frames.
const READS_BITS: u64 = 9;
/// Of several machines that are lost at once each is away for so long at most: longer than a lease and until its tasks are lost, most of the time.
const AWAY_MICROS_MAX: i64 = 20_000_000;
/// Bits that flip at a time, one after another.
const FLIPS: usize = 4;

impl Simulation {
    pub(super) fn plan_strike(&mut self, fault: Fault) {
        let every = self.world.mix.every_micros[fault as usize];
        if every > 0 {
            let pause = self.world.random.between(1, 2 * every);
            self.world.agenda.after(pause, Event::Strikes(fault));
        }
    }

    pub(super) fn strikes(&mut self, fault: Fault) {
        if self.world.quiet {
            return;
        }
        self.plan_strike(fault);
        let world = &mut self.world;
        let (seat, agent) = (world.random.index(self.seats.len()), world.random.index(self.machines.len()));
        let pause = world.random.between(10_000, 3_000_000);
        world.tell(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Break => world.sever_any(),
            Fault::Cut | Fault::CutOneWay => {
                let party = if world.random.chance(500) { Party::Agent(agent) } else { Party::Scheduler(seat) };
                let to = if world.random.chance(500) { Side::Client } else { Side::Server };
                world.cut_off(party, 2 * pause, (fault == Fault::CutOneWay).then_some(to));
            }
            Fault::ClockJump => {
                let ranges = [(-5_000_000, -1), (1, 90_000_000), (3_600_000_000, 7_300_000_000)];
                let (least, most) = ranges[world.random.index(ranges.len())];
                let micros = world.random.between(least, most);
                if let Some(server) = &mut self.server {
                    server.clock_jumps(world, micros);
                    world.struck(fault);
                }
            }
            Fault::ServerPause => self.pause(Sleeper::Server, 2 * pause),
            Fault::SchedulerPause => self.pause(Sleeper::Scheduler(seat), 3 * pause),
            Fault::AgentPause => self.pause(Sleeper::Agent(agent), 4 * pause),
            Fault::SchedulerKill => {
                if self.seats[seat].kill(world) {
                    world.struck(fault);
                }
                world.agenda.after(pause, Event::SchedulerStarts { seat });
            }
            Fault::AgentKill => {
                if self.machines[agent].kill(world) {
                    world.struck(fault);
                }
                world.agenda.after(pause, Event::AgentStarts { agent });
            }
            Fault::OtherRack => self.rebuilds(fault, agent, pause, Machine::moves_elsewhere),
            Fault::OtherHardware => self.rebuilds(fault, agent, pause, Machine::changes_hardware),
            Fault::Reboot => self.rebuilds(fault, agent, pause, |machine, world| machine.reboot(world, pause)),
            Fault::LateRegistration => {
                world.agenda.after(0, Event::AgentDiesRegistering { agent, late_micros: pause });
                world.agenda.after(pause / 4, Event::AgentStarts { agent });
            }
            Fault::AgentLeaves => world.agenda.after(0, Event::AgentLeaves { agent, away_micros: pause }),
            Fault::StateUnwritable => self.machines[agent].fills_up(world, 2 * pause),
            Fault::SetupsFail => self.machines[agent].sets_nothing_up(world, 4 * pause),
            Fault::DiskUnreadable => self.reads_fail(),
            Fault::ClockSet => self.sets_a_clock(agent, pause),
            Fault::ManyLost => self.loses_many(),
            Fault::RecordUnreadable => {
                if self.machines[agent].spoils_a_record(world) {
                    world.struck(fault);
                }
                world.agenda.after(pause, Event::AgentStarts { agent });
            }
            _ => self.strikes_the_disk(fault, pause),
        }
    }

    /// A machine is another one than before, or boots: its agent ends with that, and is started again after a pause.
    fn rebuilds(&mut self, fault: Fault, agent: usize, pause: i64, change: impl FnOnce(&mut Machine, &mut World)) {
        self.world.struck(fault);
        change(&mut self.machines[agent], &mut self.world);
        self.world.agenda.after(pause, Event::AgentStarts { agent });
    }

    /// The agents of several machines end, but not of all, and each is started again in its own time.
    fn loses_many(&mut self) {
        let (world, count) = (&mut self.world, self.machines.len());
        let (first, many) = (world.random.index(count), 2 + world.random.index(count.saturating_sub(2)));
        let mut lost = 0;
        for agent in (0..many).map(|more| (first + more) % count) {
            lost += usize::from(self.machines[agent].kill(world));
            let away_micros = world.random.between(0, AWAY_MICROS_MAX);
            world.agenda.after(away_micros, Event::AgentStarts { agent });
        }
        if lost > 1 {
            world.struck(Fault::ManyLost);
        }
    }

    /// The server's process ends, and bits flip before it is started again. A log that is refused is repaired.
    pub(super) fn rots(&mut self) -> Checked {
        if self.world.quiet {
            return Ok(());
        }
        self.plan_strike(Fault::BitFlip);
        self.disk.kill();
        self.bury_the_server();
        for _ in 0..FLIPS {
            let Some(place) = rot::Place::draw(&mut self.world.random, &self.disk) else { return Ok(()) };
            let Some(verdict) = rot::judge(&self.disk, &place)? else { return Ok(()) };
            self.world.tell(|| format!("disk: {place:?} flips: {verdict:?}"));
            self.world.struck(Fault::BitFlip);
            Tally::count(&mut self.world.tally.flips, verdict);
            if verdict == rot::Verdict::Refused {
                let wrong = self.starts_damaged(&place);
                hold(wrong.is_none(), "invariant_damage_is_named", || {
                    format!("{place:?}: {}", wrong.unwrap_or_default())
                })?;
            }
        }
        Ok(())
    }

    /// Tries to start a server on a log that is to be refused, and repairs it: what came of it instead, if anything did. A full disk may keep one from
    /// coming so far.
    fn starts_damaged(&mut self, place: &rot::Place) -> Option<String> {
        place.flip(&self.disk);
        let before = self.disk.strikes();
        let started = server::start(&self.disk, self.lives + 1, &mut self.world);
        let is_full = self.disk.strikes().full > before.full;
        place.flip(&self.disk);
        self.disk.kill();
        match started {
            Ok(_) => Some("the server started".to_owned()),
            Err(NotStarted::Wrong(violation)) if violation.invariant == LOG_REFUSED => None,
            Err(NotStarted::Wrong(violation)) => Some(violation.to_string()),
            Err(NotStarted::Disk(why)) => (!is_full).then_some(why),
        }
    }

    /// The cell goes on from its newest backup, which may have been gone on from before.
    pub(super) fn restores(&mut self) -> Checked {
        if self.world.quiet {
            return Ok(());
        }
        self.plan_strike(Fault::Restore);
        let Some(backup) = self.world.backup.clone() else { return Ok(()) };
        self.world.struck(Fault::Restore);
        self.count_disk_faults();
        self.disk.kill();
        self.bury_the_server();
        self.incarnation += 1;
        let seed = self.world.random.number();
        let wrong = |facts: String| Violation { invariant: "invariant_a_backup_is_sound", facts };
        self.disk = server::restore(&backup, self.incarnation, seed).map_err(|error| wrong(error.to_string()))?;
        if planted::is(Bug::LyingDisk) {
            self.disk.lie_about_syncs();
        }
        let revision = backup.checkpoint.revision;
        let cell = backup.checkpoint.cell().map_err(wrong)?;
        self.world.tell(|| format!("operator: restores revision {revision}, in incarnation {}", self.incarnation));
        self.world.story.step(format!("! restored: {revision}"));
        self.world.books.restored(cell, &backup.endings, self.incarnation)?;
        self.world.checkpoint = Some(backup.checkpoint);
        self.owner.restored(&mut self.world);
        Ok(())
    }

    /// What was armed at the disk, and struck: before that one is put away.
    pub(super) fn count_disk_faults(&mut self) {
        let strikes = self.disk.strikes();
        let tally = &mut self.world.tally;
        tally.saw_times(Seen::TornWrite, strikes.torn_writes);
        for (fault, count) in [
            (Fault::PowerCut, strikes.crashes_in_steps),
            (Fault::ServerKill, strikes.kills_in_steps),
            (Fault::DiskFails, strikes.failures - strikes.failed_reads),
            (Fault::DiskUnreadable, strikes.failed_reads),
            (Fault::DiskFull, strikes.full),
        ] {
            *tally.faults.entry(format!("{fault:?}")).or_default() += count;
        }
    }

    /// A machine's clock is set by less than for how long restarts count, by about as much, or by far more.
    fn sets_a_clock(&mut self, agent: usize, pause: i64) {
        let world = &mut self.world;
        let most = [1_000, 6_000, 7_200_000][world.random.index(3)];
        let off_ms = world.random.between(-most, most);
        self.machines[agent].sets_the_clock(world, off_ms);
        world.agenda.after(pause, Event::AgentStarts { agent });
    }

    /// A read fails: whatever a server that runs reads next, or, where its process ends before, any one of those by which the next one finds its
    /// cell again. That one is refused its start, and what it is to find stays as it is.
    fn reads_fail(&mut self) {
        let random = &mut self.world.random;
        let (at_start, bits) = (random.chance(700), random.below(READS_BITS));
        let before = random.below(1 << bits);
        if at_start {
            self.disk.kill();
            self.bury_the_server();
        }
        self.disk.fail(SimOperation::Read, before, std::io::ErrorKind::Other);
        self.world.tell(|| format!("disk: a read fails after {before} others, at a start {at_start}"));
    }

    /// Something happens to the server's disk, or to its process while it writes.
    fn strikes_the_disk(&mut self, fault: Fault, pause: i64) {
        let world = &mut self.world;
        let (at_once, steps, seed) = (world.random.chance(300), world.random.below(12), world.random.number());
        if at_once && self.server.is_some() && matches!(fault, Fault::PowerCut | Fault::ServerKill) {
            world.struck(fault);
        }
        match fault {
            Fault::PowerCut if at_once => self.disk.crash(seed),
            Fault::PowerCut => self.disk.crash_at_step(steps, seed),
            Fault::ServerKill if at_once => self.disk.kill(),
            Fault::ServerKill => self.disk.kill_at_step(steps),
            Fault::DiskFails => {
                let operations = [SimOperation::Sync, SimOperation::Write, SimOperation::Sync, SimOperation::Name];
                let operation = operations[world.random.index(operations.len())];
                self.disk.fail(operation, steps / 3, std::io::ErrorKind::Other);
            }
            Fault::DiskFull => {
                // Less than there is by now, or soon: whatever would make a file grow fails.
                self.disk.set_capacity(Some(DISK_BYTES));
                world.agenda.after(4 * pause, Event::DiskHasRoom);
            }
            Fault::DiskSlow => world.slow_until_micros = world.now() + 4 * pause,
            _ => {}
        }
        world.tell(|| format!("disk: {fault:?}, at once {at_once}, steps {steps}"));
    }
}
