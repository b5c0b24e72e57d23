//go:build ipvsvm

#include "textflag.h"

// func spin(times int64)
TEXT ·spin(SB), NOSPLIT, $0-8
	MOVQ times+0(FP), CX

again:
	DECQ CX
	JNZ  again
	RET
