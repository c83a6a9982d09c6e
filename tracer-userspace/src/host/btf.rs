//! Just enough of BTF to find a function's name and the arguments of a tracepoint. See the kernel's
//! Documentation/bpf/btf.rst.

const MAGIC: u16 = 0xeb9f;

const KIND_POINTER: u32 = 2;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
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

    /// Whether a tracepoint gives its programs an argument of this enumeration. The kernel describes tracepoint `x` by
    /// a typedef `btf_trace_x` of a pointer to a function.
    pub(super) fn tracepoint_gives(&self, tracepoint: &str, enumeration: &str) -> bool {
        let types: Vec<Type<'_>> = self.types().collect();
        // Type 0 is void and not written down.
        let by_id = |id: u32| types.get(usize::try_from(id).ok()?.checked_sub(1)?);
        let is = |found: &Type<'_>, name: &str| self.name(*found) == Some(name.as_bytes());
        let typedef = format!("btf_trace_{tracepoint}");
        let function = types
            .iter()
            .find(|found| found.kind == KIND_TYPEDEF && is(found, &typedef))
            .and_then(|found| by_id(found.inner).filter(|found| found.kind == KIND_POINTER))
            .and_then(|found| by_id(found.inner).filter(|found| found.kind == KIND_FUNC_PROTO));
        let Some(function) = function else { return false };
        (0..function.members).any(|place| {
            let mut argument = read_u32(function.bytes, 12 + 8 * place + 4).and_then(by_id);
            // As deep as nobody nests them, so that a circle ends.
            for _ in 0..8 {
                let is_wrapper =
                    |found: &&Type<'_>| matches!(found.kind, KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST);
                let Some(wrapper) = argument.filter(is_wrapper) else { break };
                argument = by_id(wrapper.inner);
            }
            argument
                .is_some_and(|found| matches!(found.kind, KIND_ENUM | KIND_ENUM64) && is(found, enumeration))
        })
    }

    /// All types in the order of their ids, from 1. A kind of unknown length hides all that follows.
    fn types(&self) -> impl Iterator<Item = Type<'a>> + use<'a> {
        let mut rest = self.types;
        std::iter::from_fn(move || {
            let found = Type::read(rest)?;
            rest = rest.get(found.length()?..)?;
            Some(found)
        })
    }

    fn name(&self, of: Type<'_>) -> Option<&'a [u8]> {
        let name = self.strings.get(of.name..)?;
        name.get(..name.iter().position(|byte| *byte == 0)?)
    }
}

impl<'a> Type<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let info = read_u32(bytes, 4)?;
        Some(Self {
            bytes,
            name: read_size(bytes, 0)?,
            kind: (info >> 24) & 0x1f,
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

    use super::Btf;

    fn function_name(btf: &[u8], type_id: u32) -> Option<String> {
        Btf::read(btf)?.function_name(type_id)
    }

    /// int; struct of two; function prototype with two parameters; function; then a tracepoint with an enumeration
    /// behind a const, and one without: typedef, pointer, prototype each.
    fn sample() -> Vec<u8> {
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
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
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

    #[test]
    fn a_tracepoints_enumeration_is_found_behind_const_and_not_at_another_one() {
        let bytes = sample();
        let btf = Btf::read(&bytes).unwrap();
        assert!(btf.tracepoint_gives("kfree_skb", "skb_drop_reason"));
        assert!(!btf.tracepoint_gives("consume_skb", "skb_drop_reason"));
        assert!(!btf.tracepoint_gives("kfree_skb", "pair"));
        assert!(!btf.tracepoint_gives("no_such", "skb_drop_reason"));
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
                btf.tracepoint_gives("kfree_skb", "skb_drop_reason");
            }
        }
    }
}
