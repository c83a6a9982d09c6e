//! Just enough of BTF to find a function's name, the arguments of a tracepoint, where a structure has a member, and the
//! names of an enumeration. See the kernel's Documentation/bpf/btf.rst.

mod types;

pub(super) use types::Types;

const MAGIC: u16 = 0xeb9f;

const KIND_POINTER: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// BTF of a program or of the kernel.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// One type: a view into the bytes behind its position.
#[derive(Clone, Copy)]
struct Type<'a> {
    bytes: &'a [u8],
    /// Place of its name in the strings.
    name: usize,
    kind: u32,
    /// The flag of its info word: in a structure, that members may be bit fields.
    flag: bool,
    /// Members, values or parameters.
    members: usize,
    /// The type that this one is made of, where its kind has one.
    inner: u32,
}

impl<'a> Btf<'a> {
    /// `None` if the bytes are no BTF that this reader knows.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        // magic, version, flags, header length, then offset and length of types and strings behind the header
        if read_u16(bytes, 0)? != MAGIC || *bytes.get(2)? != 1 {
            return None;
        }
        let header = read_size(bytes, 4)?;
        let section = |at: usize| {
            let start = header.checked_add(read_size(bytes, at)?)?;
            bytes.get(start..start.checked_add(read_size(bytes, at + 4)?)?)
        };
        Some(Self { types: section(8)?, strings: section(16)? })
    }

    /// The name of the function with this type id; `None` if it is no function.
    pub(super) fn function_name(&self, type_id: u32) -> Option<String> {
        let place = usize::try_from(type_id).ok()?.checked_sub(1)?;
        let function = self.types().nth(place).filter(|found| found.kind == KIND_FUNC)?;
        let name = self.name(function)?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }

    /// All types in the order of their ids, from 1. A kind of unknown length hides all that follows, see
    /// [`Types::unknown_kind`].
    fn types(&self) -> impl Iterator<Item = Type<'a>> + use<'a> {
        let mut rest = self.types;
        std::iter::from_fn(move || {
            let found = Type::read(rest)?;
            rest = rest.get(found.length()?..)?;
            Some(found)
        })
    }

    fn name(&self, of: Type<'_>) -> Option<&'a [u8]> {
        self.text(of.name)
    }

    fn text(&self, place: usize) -> Option<&'a [u8]> {
        let text = self.strings.get(place..)?;
        text.get(..text.iter().position(|byte| *byte == 0)?)
    }
}

impl<'a> Type<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let info = read_u32(bytes, 4)?;
        Some(Self {
            bytes,
            name: read_size(bytes, 0)?,
            kind: (info >> 24) & 0x1f,
            flag: info >> 31 != 0,
            members: (info & 0xffff) as usize,
            inner: read_u32(bytes, 8)?,
        })
    }

    /// In bytes: name, info, size or type, and what its kind adds.
    fn length(&self) -> Option<usize> {
        let extra = match self.kind {
            // pointer, forward, typedef, volatile, const, restrict, func, float, type tag
            2 | 7 | 8 | 9 | 10 | 11 | 12 | 16 | 18 => 0,
            // int, variable, declaration tag
            1 | 14 | 17 => 4,
            // array
            3 => 12,
            // struct, union, data section, enum64
            4 | 5 | 15 | 19 => 12 * self.members,
            // enum, function prototype
            6 | 13 => 8 * self.members,
            _ => return None,
        };
        Some(12 + extra)
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_size(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(read_u32(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Btf, Types};

    fn function_name(btf: &[u8], type_id: u32) -> Option<String> {
        Btf::read(btf)?.function_name(type_id)
    }

    /// BTF of these strings and of the words of these types.
    pub(super) fn btf_of(strings: &[u8], types: &[u32]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().copied().flat_map(u32::to_ne_bytes).collect();
        let mut btf = vec![];
        btf.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
        btf.extend_from_slice(&[1, 0]);
        for field in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            btf.extend_from_slice(&field.to_ne_bytes());
        }
        btf.extend_from_slice(&types);
        btf.extend_from_slice(strings);
        btf
    }

    /// int; struct of two; function prototype with two parameters; function; then a tracepoint with an enumeration
    /// behind a const, and one without: typedef, pointer, prototype each. The first argument of a tracepoint's prototype
    /// is its own.
    pub(super) fn sample() -> Vec<u8> {
        let strings =
            b"\0int\0pair\0cil_from_container\0skb_drop_reason\0btf_trace_kfree_skb\0btf_trace_consume_skb\0";
        let name = |name: &str| {
            strings.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() as u32
        };
        let info = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = [
            vec![name("int"), info(1, 0), 4, 0x0100_0020],
            vec![name("pair"), info(4, 2), 8, 0, 1, 0, 0, 1, 32],
            vec![0, info(13, 2), 1, 0, 1, 0, 1],
            vec![name("cil_from_container"), info(12, 0), 3],
            vec![name("skb_drop_reason"), info(6, 1), 4, 0, 2],
            vec![0, info(10, 0), 5],
            vec![name("btf_trace_kfree_skb"), info(8, 0), 8],
            vec![0, info(2, 0), 9],
            vec![0, info(13, 2), 0, 0, 1, 0, 6],
            vec![name("btf_trace_consume_skb"), info(8, 0), 11],
            vec![0, info(2, 0), 12],
            vec![0, info(13, 1), 0, 0, 1],
        ]
        .concat();
        btf_of(strings, &types)
    }

    #[test]
    fn a_functions_full_name_is_found_behind_types_of_other_kinds() {
        assert_eq!(function_name(&sample(), 4).as_deref(), Some("cil_from_container"));
    }

    #[test]
    fn what_is_no_function_has_no_name() {
        for type_id in [0, 1, 2, 3, 5, 13, u32::MAX] {
            assert_eq!(function_name(&sample(), type_id), None, "type {type_id}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(place in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(), id in 0..16_u32) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[place % length] = byte;
            bytes.truncate(cut % (length + 1));
            if let Some(btf) = Btf::read(&bytes) {
                btf.function_name(id);
                let types = Types::of(&btf);
                types.tracepoint_argument("kfree_skb", "skb_drop_reason");
                types.member_offset("pair", &["a", "b"]);
                types.enumerators("skb_drop_reason");
                types.unknown_kind();
            }
        }
    }
}
