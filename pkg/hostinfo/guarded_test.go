package hostinfo

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A kernel that writes more than there is room for ends at the room's end.
func TestGuardedMemory(t *testing.T) {
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	for _, size := range []int{1, 44, 4096, 12 + 200*statisticName} {
		data, free, err := allocGuarded(size)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != size {
			t.Errorf("%d bytes, want %d", len(data), size)
		}
		n, _, errno := unix.Syscall(unix.SYS_READ, zero.Fd(), uintptr(unsafe.Pointer(&data[0])), uintptr(size+8))
		if errno == 0 && int(n) > size {
			t.Errorf("%d bytes were written to %d", n, size)
		}
		free()
	}
}
