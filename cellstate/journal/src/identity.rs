//! The identity of a directory: which cell it belongs to, in which incarnation, in which format.
//!
//! The file is one sector, made once: its appearance under its name is the moment when the directory becomes a
//! cell. Layout: magic `PLENUMID`, format version at 8, cell id at 16, incarnation at 32, CRC-32 at 508.

use crate::disk::{Disk, DiskError, OpenMode};
use crate::flaw::Flaw;
use crate::format::{
    CellId, FORMAT_VERSION, SECTOR_BYTES, Sector, check_record, field, index, put, seal_sector, u64_at,
};

/// The name of the identity file.
pub const NAME: &str = "CELL";

const DRAFT: &str = "CELL.tmp";
const MAGIC: [u8; 8] = *b"PLENUMID";

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cell.
    pub cell: CellId,
    /// Raised by a restore or an accepted loss, so that clients know that revisions may differ; starts at 1.
    pub incarnation: u64,
}

impl Identity {
    pub(crate) fn encode(&self) -> Sector {
        let mut sector = [0; index(SECTOR_BYTES)];
        put(&mut sector, 0, &MAGIC);
        put(&mut sector, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut sector, 16, &self.cell.0);
        put(&mut sector, 32, &self.incarnation.to_le_bytes());
        seal_sector(&mut sector);
        sector
    }

    pub(crate) fn decode(sector: &Sector) -> Result<Self, Flaw> {
        let magic: [u8; 8] = field(sector, 0);
        if magic != MAGIC {
            return Err(Flaw::Magic { expected: MAGIC.to_vec(), found: magic.to_vec() });
        }
        check_record(sector)?;
        Ok(Identity { cell: CellId(field(sector, 16)), incarnation: u64_at(sector, 32) })
    }

    /// Makes the directory a cell. Everything else that a cell needs must be durable before.
    pub(crate) fn create(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        let file = disk.open(DRAFT, OpenMode::Create)?;
        file.write_at(0, &self.encode())?;
        file.sync()?;
        disk.rename(DRAFT, NAME)?;
        disk.sync_dir()
    }

    /// Reads the identity file, which must be there.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Result<Self, Flaw>, DiskError> {
        let file = disk.open(NAME, OpenMode::Existing)?;
        let found_bytes = file.size_bytes()?;
        if found_bytes != SECTOR_BYTES {
            return Ok(Err(Flaw::FileSize { expected_bytes: SECTOR_BYTES, found_bytes }));
        }
        let mut sector = [0; index(SECTOR_BYTES)];
        file.read_at(0, &mut sector)?;
        Ok(Identity::decode(&sector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::u32_at;

    #[test]
    fn an_identity_has_the_bytes_that_format_one_has() {
        let identity = Identity { cell: CellId([0xce; 16]), incarnation: 2 };
        let sector = identity.encode();
        let text: String = sector[..40].iter().map(|byte| format!("{byte:02x}")).collect();
        let fields =
            ["504c454e554d4944", "01000000", "00000000", "cececececececececececececececece", "0200000000000000"];
        assert_eq!(text, fields.concat());
        assert!(sector[40..508].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&sector, 508), 0x07f8_6194, "CRC-32 as zlib computes it");
        assert_eq!(Identity::decode(&sector), Ok(identity));
    }
}
