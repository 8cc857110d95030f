//! Shaders that count what they load, for tests of the cost functions: each load from a storage buffer that the
//! costs cover adds its bytes to a counter of its kernel and kind. It rewrites the parsed shader, so that no load
//! can be forgotten, whatever the WGSL looks like.

use naga::back::wgsl;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{
    AddressSpace, ArraySize, AtomicFunction, Block, Expression, Function, GlobalVariable, Handle, Literal,
    Module, Range, ResourceBinding, Scalar, Span, Statement, StorageAccess, Type, TypeInner,
};

use crate::cost::Loads;

/// Kernels that can be told apart.
const KERNELS: [&str; 18] = [
    "add",
    "attention_mass_heads",
    "attention_mass_rows",
    "embed",
    "kv_append",
    "kv_append_roped",
    "kv_read",
    "lora_matmul_decode",
    "lora_matmul_prefill",
    "lora_matmul_shrink",
    "paged_attention_decode",
    "paged_attention_merge",
    "paged_attention_prefill",
    "quantise",
    "rms_norm",
    "rms_norm_heads",
    "rope",
    "swiglu",
];

/// Kinds of what is loaded, in the order of [`Loads`].
const KINDS: usize = 4;

/// Bytes of all counters.
pub(crate) const COUNTER_BYTES: u64 = (KERNELS.len() * KINDS * size_of::<u32>()) as u64;

/// The counters of a kernel.
pub(crate) fn loads(kernel: &str, counters: &[u32]) -> Loads {
    let at = KERNELS.iter().position(|k| *k == kernel).unwrap() * KINDS;
    let [weights, factors, pages, activations] = [0, 1, 2, 3].map(|kind| u64::from(counters[at + kind]));
    Loads { weights, factors, pages, activations }
}

/// The counter of what a kernel loads from a variable; `None` for lookups, and for kernels without an exact cost.
fn counter(kernel: &str, variable: &str) -> Option<u32> {
    let kind = match (kernel, variable) {
        (_, "tables" | "table") => return None,
        ("lora_matmul_shrink", "weights") | (_, "factors") => 1,
        (_, "weights" | "vectors") => 0,
        (_, "stripe" | "words" | "word_quads" | "constants") => 2,
        _ => 3,
    };
    let at = KERNELS.iter().position(|k| *k == kernel)?;
    u32::try_from(at * KINDS + kind).ok()
}

/// The WGSL of a kernel that counts in binding 0 of group 1.
pub(crate) fn counting(kernel: &str, source: &str) -> String {
    let enable = if source.starts_with("enable f16;") { "enable f16;\n" } else { "" };
    let mut module = naga::front::wgsl::parse_str(source).unwrap();
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap();
    let counters = counters(&mut module);
    let sources = module.clone();
    let sized = |info: &naga::valid::FunctionInfo, function: &Function, load: Handle<Expression>| {
        let Expression::Load { pointer } = function.expressions[load] else { return None };
        let variable = root(function, pointer)?;
        let global = &sources.global_variables[variable];
        matches!(global.space, AddressSpace::Storage { .. }).then_some(())?;
        let counter = counter(kernel, global.name.as_deref()?)?;
        let bytes = info[load].ty.inner_with(&sources.types).size(sources.to_ctx());
        Some((counter, bytes))
    };
    for (handle, function) in module.functions.iter_mut() {
        let loads = loads_of(function, |f, load| sized(&info[handle], f, load));
        rewrite(function, counters, &loads);
    }
    for (i, entry) in module.entry_points.iter_mut().enumerate() {
        let loads = loads_of(&entry.function, |f, load| sized(info.get_entry_point(i), f, load));
        rewrite(&mut entry.function, counters, &loads);
    }
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{kernel}: {e:?}"));
    let written = wgsl::write_string(&module, &info, wgsl::WriterFlags::empty()).unwrap();
    // The writer says what the module enables by itself, but not everywhere.
    if written.contains("enable f16") { written } else { format!("{enable}{written}") }
}

fn counters(module: &mut Module) -> Handle<GlobalVariable> {
    let atomic = Type { name: None, inner: TypeInner::Atomic(Scalar::U32) };
    let base = module.types.insert(atomic, Span::UNDEFINED);
    let size = ArraySize::Constant(std::num::NonZeroU32::new((KERNELS.len() * KINDS) as u32).unwrap());
    let array = Type { name: None, inner: TypeInner::Array { base, size, stride: 4 } };
    let ty = module.types.insert(array, Span::UNDEFINED);
    let variable = GlobalVariable {
        name: Some("counters".into()),
        space: AddressSpace::Storage { access: StorageAccess::LOAD | StorageAccess::STORE },
        binding: Some(ResourceBinding { group: 1, binding: 0 }),
        ty,
        init: None,
        memory_decorations: naga::MemoryDecorations::empty(),
    };
    module.global_variables.append(variable, Span::UNDEFINED)
}

/// The variable behind a pointer.
fn root(function: &Function, mut pointer: Handle<Expression>) -> Option<Handle<GlobalVariable>> {
    loop {
        match function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => pointer = base,
            Expression::GlobalVariable(variable) => return Some(variable),
            _ => return None,
        }
    }
}

type Load = (Handle<Expression>, (u32, u32));

fn loads_of(
    function: &Function,
    sized: impl Fn(&Function, Handle<Expression>) -> Option<(u32, u32)>,
) -> Vec<Load> {
    let of = |(handle, _): (Handle<Expression>, &Expression)| Some((handle, sized(function, handle)?));
    function.expressions.iter().filter_map(of).collect()
}

fn rewrite(function: &mut Function, counters: Handle<GlobalVariable>, loads: &[Load]) {
    let mut body = std::mem::take(&mut function.body);
    block(&mut body, function, counters, loads);
    function.body = body;
}

fn block(body: &mut Block, function: &mut Function, counters: Handle<GlobalVariable>, loads: &[Load]) {
    let mut counted = Block::new();
    for (mut statement, span) in std::mem::take(body).span_into_iter() {
        match &mut statement {
            Statement::Block(inner) => block(inner, function, counters, loads),
            Statement::If { accept, reject, .. } => {
                block(accept, function, counters, loads);
                block(reject, function, counters, loads);
            }
            Statement::Switch { cases, .. } => {
                cases.iter_mut().for_each(|case| block(&mut case.body, function, counters, loads));
            }
            Statement::Loop { body, continuing, .. } => {
                block(body, function, counters, loads);
                block(continuing, function, counters, loads);
            }
            _ => {}
        }
        let emitted: Vec<Load> = match &statement {
            Statement::Emit(range) => {
                let emitted: Vec<_> = range.clone().collect();
                loads.iter().filter(|(load, _)| emitted.contains(load)).copied().collect()
            }
            _ => Vec::new(),
        };
        counted.push(statement, span);
        for (_, (counter, bytes)) in emitted {
            let expressions = &mut function.expressions;
            let base = expressions.append(Expression::GlobalVariable(counters), Span::UNDEFINED);
            let value = expressions.append(Expression::Literal(Literal::U32(bytes)), Span::UNDEFINED);
            let pointer =
                expressions.append(Expression::AccessIndex { base, index: counter }, Span::UNDEFINED);
            counted.push(Statement::Emit(Range::new_from_bounds(pointer, pointer)), Span::UNDEFINED);
            let fun = AtomicFunction::Add;
            counted.push(Statement::Atomic { pointer, fun, value, result: None }, Span::UNDEFINED);
        }
    }
    *body = counted;
}
