// Weights are staged in half precision: half the workgroup memory, and exact for f16 weights. Activations
// never are.
alias staged_f = f16;
