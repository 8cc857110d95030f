// Weights are staged as they were unpacked.
alias staged_f = f32;
