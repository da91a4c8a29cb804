//! Groups of functions: an owner itself, and its VFs. ("Device groups")

use std::collections::BTreeMap;

use super::{Answer, Command, Refusal};
use crate::transport::Backend;
use crate::virtio_pci::function::{Area, Function, Part, Stopper};
use crate::virtio_pci::layout::{LEGACY_NOTIFY, MEMBERS_NOTIFY, NOTIFY_STRIDE, VIRTIO_BAR};

/// `group_type`: the owner itself.
const SELF: u16 = 0;
/// `group_type`: its VFs, by their numbers from 1 on.
const SR_IOV: u16 = 1;

const VIRTIO_ADMIN_CMD_LIST_QUERY: u16 = 0x0;
const VIRTIO_ADMIN_CMD_LIST_USE: u16 = 0x1;
const VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE: u16 = 0x2;
const VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ: u16 = 0x3;
const VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE: u16 = 0x4;
const VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ: u16 = 0x5;
const VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO: u16 = 0x6;
const VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY: u16 = 0x7;
const VIRTIO_ADMIN_CMD_DEVICE_CAP_GET: u16 = 0x8;
const VIRTIO_ADMIN_CMD_DRIVER_CAP_SET: u16 = 0x9;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE: u16 = 0xa;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY: u16 = 0xb;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY: u16 = 0xc;
const VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY: u16 = 0xd;
const VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET: u16 = 0xe;
const VIRTIO_ADMIN_CMD_DEV_PARTS_GET: u16 = 0xf;
const VIRTIO_ADMIN_CMD_DEV_PARTS_SET: u16 = 0x10;
const VIRTIO_ADMIN_CMD_DEV_MODE_SET: u16 = 0x11;

/// Those that every group has.
const LISTS: u64 = 1 << VIRTIO_ADMIN_CMD_LIST_QUERY | 1 << VIRTIO_ADMIN_CMD_LIST_USE;
/// Those about the owner's capabilities.
const CAPABILITIES: u64 = 1 << VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY
    | 1 << VIRTIO_ADMIN_CMD_DEVICE_CAP_GET
    | 1 << VIRTIO_ADMIN_CMD_DRIVER_CAP_SET;
/// All that there are, with those about members.
const ALL: u64 = (2 << VIRTIO_ADMIN_CMD_DEV_MODE_SET) - 1;

/// The only capability.
const VIRTIO_DEV_PARTS_CAP: u16 = 0;
/// The only type of objects.
const VIRTIO_RESOURCE_OBJ_DEV_PARTS: u16 = 0;
/// Objects that parts are got by, and that they are set by, at most.
const OBJECTS_MAX: [u8; 2] = [255; 2];
/// `flags`: the device is stopped.
const VIRTIO_ADMIN_CMD_DEV_MODE_F_STOPPED: u8 = 1 << 0;
const VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_SIZE: u8 = 0;
const VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_COUNT: u8 = 1;
const VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_LIST: u8 = 2;
const VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_SELECTED: u8 = 0;
const VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_ALL: u8 = 1;

/// What parts of a member are got or set by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Object {
    member: u64,
    purpose: Purpose,
}

/// What an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Get,
    Set,
}

/// Who is in an owner's group of VFs.
#[derive(Debug)]
pub struct Members<'m, B> {
    /// How many there are; none, while that changes.
    pub count: Option<u16>,
    /// The one that a command is about, or why it cannot be had.
    pub found: Result<(&'m mut Function, &'m mut B), Refusal>,
}

/// What an owner's driver has agreed on with it, since the owner was last reset.
#[derive(Clone, Debug)]
pub struct Group {
    /// Commands that it uses, of each group.
    used: [u64; 2],
    /// Objects that it wants to make at most: numbers below that are theirs.
    limits: [u8; 2],
    /// What there are, by their numbers.
    objects: BTreeMap<u32, Object>,
}

impl Default for Group {
    fn default() -> Self {
        Self { used: [LISTS; 2], limits: [0; 2], objects: BTreeMap::new() }
    }
}

impl Group {
    /// Which VF a command is about, if it is about one.
    pub fn member_of(command: &Command) -> Option<u64> {
        let is_general = (LISTS | CAPABILITIES) & bit(command.opcode) != 0;
        (command.group == SR_IOV && !is_general).then_some(command.member)
    }

    /// Does what a driver asks for.
    ///
    /// # Errors
    /// [`Refusal`]: nothing has changed.
    pub fn obey<B: Backend>(&mut self, command: &Command, members: Members<'_, B>) -> Answer {
        let Command { opcode, group, member, ref data, room } = *command;
        let mut data = Reader(data);
        let offered = match group {
            SELF => LISTS | CAPABILITIES,
            SR_IOV => ALL,
            _ => return Err(Refusal::Group),
        };
        // Linux asks for both lists of commands before there are VFs, and uses the owner's capabilities as it has said of its VFs.
        let about_member = Self::member_of(command).is_some();
        if about_member && members.count == Some(0) {
            return Err(Refusal::Group);
        }
        let used = self.used[usize::from(group)] | self.used[usize::from(SR_IOV)] & CAPABILITIES;
        if offered & used & bit(opcode) == 0 {
            return Err(Refusal::Opcode);
        }
        match opcode {
            VIRTIO_ADMIN_CMD_LIST_QUERY => return Ok(offered.to_le_bytes().to_vec()),
            VIRTIO_ADMIN_CMD_LIST_USE => {
                let wanted = data.u64();
                if wanted & !offered != 0 || data.0.iter().any(|more| *more != 0) {
                    return Err(Refusal::Field);
                }
                self.used[usize::from(group)] = wanted;
                return Ok(Vec::new());
            }
            VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY => return Ok((1u64 << VIRTIO_DEV_PARTS_CAP).to_le_bytes().to_vec()),
            VIRTIO_ADMIN_CMD_DEVICE_CAP_GET => {
                data.capability()?;
                return Ok(OBJECTS_MAX.to_vec());
            }
            VIRTIO_ADMIN_CMD_DRIVER_CAP_SET => {
                data.capability()?;
                return self.limit([data.u8(), data.u8()]);
            }
            _ => {}
        }
        match members.count {
            None => return Err(Refusal::Again),
            Some(count) if !(1..=u64::from(count)).contains(&member) => return Err(Refusal::Member),
            Some(_) => {}
        }
        let (function, device) = members.found?;
        match opcode {
            VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE => write(function, Area::Common, data, device),
            VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ => read(function, Area::Common, data, room, device),
            VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE => write(function, Area::Device, data, device),
            VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ => read(function, Area::Device, data, room, device),
            VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO => Ok(doorbells(member)),
            VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE => self.create(data, member),
            VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY => {
                let (id, object) = self.object(&mut data, member)?;
                let _flags = data.u64();
                let purpose = data.purpose()?;
                self.check_limit(id, purpose)?;
                self.objects.insert(id, Object { purpose, ..object });
                Ok(Vec::new())
            }
            VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY => {
                let (_, object) = self.object(&mut data, member)?;
                Ok((object.purpose as u64).to_le_bytes().to_vec())
            }
            VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY => {
                let (id, _) = self.object(&mut data, member)?;
                self.objects.remove(&id);
                Ok(Vec::new())
            }
            VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET => {
                self.object_for(&mut data, member, Purpose::Get)?;
                let result = metadata(&function.parts(device).ok_or(Refusal::Field)?, data.u8())?;
                if result.len() <= room { Ok(result) } else { Err(Refusal::Room) }
            }
            VIRTIO_ADMIN_CMD_DEV_PARTS_GET => {
                self.object_for(&mut data, member, Purpose::Get)?;
                let parts = function.parts(device).ok_or(Refusal::Field)?;
                let wanted: &dyn Fn(&Part) -> bool = match data.u64() as u8 {
                    VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_SELECTED => {
                        let (headers, _) = data.0.as_chunks();
                        &move |part| headers.iter().any(|header| part.is(header))
                    }
                    VIRTIO_ADMIN_CMD_DEV_PARTS_GET_TYPE_ALL => &|_| true,
                    _ => return Err(Refusal::Field),
                };
                Ok(parts.iter().filter(|part| wanted(part)).flat_map(Part::to_bytes).collect())
            }
            VIRTIO_ADMIN_CMD_DEV_PARTS_SET => {
                self.object_for(&mut data, member, Purpose::Set)?;
                if !function.is_stopped_by(Stopper::Owner) {
                    return Err(Refusal::Busy);
                }
                let parts = Part::read_all(data.0).ok_or(Refusal::Field)?;
                function.set_parts(&parts, device).map(|()| Vec::new()).map_err(|_| Refusal::Field)
            }
            VIRTIO_ADMIN_CMD_DEV_MODE_SET => {
                let flags = data.u8();
                if flags & !VIRTIO_ADMIN_CMD_DEV_MODE_F_STOPPED != 0 {
                    return Err(Refusal::Field);
                }
                function.set_stopped(Stopper::Owner, flags != 0, device);
                Ok(Vec::new())
            }
            _ => Err(Refusal::Opcode),
        }
    }

    /// The driver says how many objects it makes at most.
    fn limit(&mut self, limits: [u8; 2]) -> Answer {
        if limits.iter().zip(OBJECTS_MAX).any(|(limit, most)| *limit > most) {
            return Err(Refusal::Field);
        }
        if !self.objects.is_empty() {
            return Err(Refusal::Busy);
        }
        self.limits = limits;
        Ok(Vec::new())
    }

    fn create(&mut self, mut data: Reader<'_>, member: u64) -> Answer {
        let id = data.object()?;
        let _flags = data.u64();
        let purpose = data.purpose()?;
        self.check_limit(id, purpose)?;
        if self.objects.contains_key(&id) {
            return Err(Refusal::Exists);
        }
        self.objects.insert(id, Object { member, purpose });
        Ok(Vec::new())
    }

    fn check_limit(&self, id: u32, purpose: Purpose) -> Result<(), Refusal> {
        if id < self.limits[purpose as usize].into() { Ok(()) } else { Err(Refusal::Field) }
    }

    /// An object of this member that there is.
    fn object(&self, data: &mut Reader<'_>, member: u64) -> Result<(u32, Object), Refusal> {
        let id = data.object()?;
        let object = self.objects.get(&id).filter(|object| object.member == member);
        object.map(|object| (id, *object)).ok_or(Refusal::Missing)
    }

    /// The same, for this.
    fn object_for(&self, data: &mut Reader<'_>, member: u64, purpose: Purpose) -> Result<(), Refusal> {
        let (_, object) = self.object(data, member)?;
        if object.purpose == purpose { Ok(()) } else { Err(Refusal::Field) }
    }
}

/// `command_specific_data`, from the front; zeroes behind its end.
#[derive(Clone, Copy, Debug)]
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (known, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..known.len()].copy_from_slice(known);
        bytes
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// The number of a capability, which there has to be.
    fn capability(&mut self) -> Result<(), Refusal> {
        let [low, high, ..] = self.take::<8>();
        if u16::from_le_bytes([low, high]) == VIRTIO_DEV_PARTS_CAP { Ok(()) } else { Err(Refusal::Missing) }
    }

    /// `struct virtio_admin_cmd_resource_obj_cmd_hdr`: an object's number.
    fn object(&mut self) -> Result<u32, Refusal> {
        let [low, high, _, _, id @ ..] = self.take::<8>();
        let is_known = u16::from_le_bytes([low, high]) == VIRTIO_RESOURCE_OBJ_DEV_PARTS;
        if is_known { Ok(u32::from_le_bytes(id)) } else { Err(Refusal::Field) }
    }

    /// `struct virtio_resource_obj_dev_parts`.
    fn purpose(&mut self) -> Result<Purpose, Refusal> {
        [Purpose::Get, Purpose::Set].get(usize::from(self.u8())).copied().ok_or(Refusal::Field)
    }
}

fn bit(opcode: u16) -> u64 {
    1u64.checked_shl(opcode.into()).unwrap_or(0)
}

fn read(function: &mut Function, area: Area, mut data: Reader<'_>, len: usize, device: &impl Backend) -> Answer {
    function.read_for_owner(area, data.u8(), len, device).ok_or(Refusal::Field)
}

fn write(function: &mut Function, area: Area, mut data: Reader<'_>, device: &mut impl Backend) -> Answer {
    let [offset, ..] = data.take::<8>();
    let written = function.write_for_owner(area, offset, data.0, device).ok_or(Refusal::Field)?;
    written.map(|()| Vec::new()).map_err(|refusal| {
        tracing::debug!("a legacy driver's register: {refusal}");
        Refusal::Field
    })
}

/// `struct virtio_admin_cmd_legacy_notify_info_result`: Linux wants a place in the owner's BAR, and it is as good as the member's own.
fn doorbells(member: u64) -> Vec<u8> {
    const OWNER: u8 = 1;
    const MEMBER: u8 = 2;
    let entry = |flags, offset: u64| [&[flags, VIRTIO_BAR as u8, 0, 0, 0, 0, 0, 0][..], &offset.to_le_bytes()].concat();
    let owners = MEMBERS_NOTIFY + (member - 1) * u64::from(NOTIFY_STRIDE);
    [entry(OWNER, owners), entry(MEMBER, LEGACY_NOTIFY), vec![0; 32]].concat()
}

/// `struct virtio_admin_cmd_dev_parts_metadata_result`.
fn metadata(parts: &[Part], kind: u8) -> Answer {
    let number = |number: usize| (number as u64).to_le_bytes().to_vec();
    Ok(match kind {
        VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_SIZE => number(parts.iter().map(|part| part.to_bytes().len()).sum()),
        VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_COUNT => number(parts.len()),
        VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_TYPE_LIST => {
            [number(parts.len()), parts.iter().flat_map(Part::header).collect()].concat()
        }
        _ => return Err(Refusal::Field),
    })
}
