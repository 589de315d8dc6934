//! How often checkpoints are written: a start shall be quick, and images are dear.

use std::time::Duration;

use crate::options::Settings;

/// A checkpoint waits for so many times the log bytes that the one before took in images: so that images are at most a part of what is
/// written, however large the cell is.
const LOG_BYTES_PER_IMAGE_BYTE: u64 = 4;
/// It waits for so much more, where images are still dear: of a cell whose rows change at random each checkpoint has nearly all pages …
const SPARED_IMAGES: u64 = 4;
/// … but not until more log than this would have to be read at a start. That takes a second or so.
const SPARED_LOG_BYTES: u64 = 256 << 20;
/// When half of the log's bound waits, checkpoints wait so many times longer, by bytes and by time.
const SPARING_FACTOR: u32 = 4;

/// How often checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// After so many bytes of log …
    log_bytes: u64,
    /// … or so long after something has changed.
    pub(super) interval: Duration,
}

impl Pace {
    /// After a checkpoint of so many bytes of images, for a history that is so far behind: it writes fewer of them while it has batches to
    /// write.
    pub(super) fn new(settings: &Settings, image_bytes: u64, lag_bytes: u64) -> Self {
        let spared = if is_far_behind(settings, lag_bytes) { SPARING_FACTOR } else { 1 };
        let log_bytes = enough_log_bytes(settings.checkpoint_bytes, image_bytes).saturating_mul(spared.into());
        Self { log_bytes, interval: settings.checkpoint_interval.saturating_mul(spared) }
    }

    /// Whether one is to be written, so many bytes after the one before; `changed` is for how long it lacks something, if it does.
    pub(super) fn is_due(&self, since_bytes: u64, changed: Option<Duration>) -> bool {
        since_bytes >= self.log_bytes || changed.is_some_and(|changed| changed >= self.interval)
    }
}

/// Whether so much waits that the log comes near its bound.
pub(super) fn is_far_behind(settings: &Settings, lag_bytes: u64) -> bool {
    lag_bytes > settings.log_bytes_max / 2
}

/// After how much log a checkpoint is worth writing when the one before took so many bytes of images.
fn enough_log_bytes(least: u64, image_bytes: u64) -> u64 {
    let fourfold = image_bytes.saturating_mul(LOG_BYTES_PER_IMAGE_BYTE);
    let spared = fourfold.saturating_mul(SPARED_IMAGES).min(SPARED_LOG_BYTES);
    least.max(fourfold).max(spared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_as_rare_as_a_quick_start_allows() {
        let enough = |image_mib: u64| enough_log_bytes(8 << 20, image_mib << 20) >> 20;
        assert_eq!([0, 1, 10, 16, 45, 64, 100].map(enough), [8, 16, 160, 256, 256, 256, 400]);
    }
    /// The time alone asked for checkpoints as often as ever, however far behind the history was.
    #[test]
    fn a_history_that_is_far_behind_writes_fewer_images_whatever_asks_for_them() {
        let settings = Settings::default();
        let far = settings.log_bytes_max / 2;
        let usual = Pace::new(&settings, 1 << 20, far);
        assert_eq!(usual, Pace { log_bytes: 16 << 20, interval: Duration::from_secs(60) });
        let spared = Pace::new(&settings, 1 << 20, far + 1);
        assert_eq!(spared, Pace { log_bytes: 64 << 20, interval: Duration::from_secs(240) });
        let minute = Some(Duration::from_secs(60));
        assert!(usual.is_due(16 << 20, None) && usual.is_due(1, minute));
        assert!(!usual.is_due((16 << 20) - 1, Some(Duration::from_secs(59))), "neither is enough");
        assert!(!spared.is_due(16 << 20, minute));
        assert!(spared.is_due(64 << 20, None) && spared.is_due(1, minute.map(|minute| minute * 4)));
        assert!(!usual.is_due(0, None), "nothing has changed");
    }
}
