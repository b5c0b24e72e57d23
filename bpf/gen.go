package bpf

// The committed objects mean that building lvx needs no clang. Debian keeps
// the asm/ headers below the architecture's directory, which -idirafter finds
// for whichever there is. What bpf2go writes is not exported; names gives the
// types and constants their Go names.
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -no-global-types -output-stem lb lb lb.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -no-global-types -output-stem lb6 lb6 lb6.c -- -D LVX_IPV6 -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -no-global-types -output-stem explain explain lb.c -- -D LVX_EXPLAIN -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -no-global-types -output-stem trace trace lb.c -- -D LVX_TRACE -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -no-global-types -output-stem explain6 explain6 lb6.c -- -D LVX_IPV6 -D LVX_EXPLAIN -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-16 -strip llvm-strip-16 -target bpfel -no-global-types -output-stem trace6 trace6 lb6.c -- -D LVX_IPV6 -D LVX_TRACE -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run ./names types_bpfel.go lb_bpfel.o types.h lb_bpfel.o counts.h lb_bpfel.o window.h trace_bpfel.o recording.h
