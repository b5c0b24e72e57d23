package e2e

import (
	"debug/elf"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What the binary was before it could speak BGP: 25.1 MB without symbols, and
// 4,810 allocations of 699 kB before main began.
const (
	sizeBeforeBGP = 25_100_000
	sizeOfBGP     = 20_000_000 // that GoBGP and all else since may have added

	bytesOfBGP  = 1_000_000 // that what came with GoBGP may take before main
	allocsOfBGP = 4_000
)

// ofBGP are packages that are in the binary for GoBGP alone.
var ofBGP = []string{"github.com/osrg/gobgp/", "google.golang.org/grpc", "github.com/spf13/viper", "github.com/subosito/gotenv"}

// The binary as it is shipped, without symbols, has not grown by more than BGP
// may cost those who do not use it.
func TestBinarySizeWithBGP(t *testing.T) {
	f, err := elf.Open(lvx)
	must(t, err)
	defer f.Close()
	var size uint64
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.Type != elf.SHT_NOBITS {
			size += s.FileSize
		}
	}
	t.Logf("%d bytes without symbols", size)
	if size > sizeBeforeBGP+sizeOfBGP {
		t.Errorf("the binary takes %d bytes without symbols, %d before it spoke BGP (want %d more at most)", size, sizeBeforeBGP, sizeOfBGP)
	}
}

var initTrace = regexp.MustCompile(`(?m)^init (\S+) @.* clock, (\d+) bytes, (\d+) allocs$`)

// GoBGP costs a program that does not use it next to nothing before main, where
// it cannot be asked: Go's runtime counts what each package allocates there.
func TestStartWithBGP(t *testing.T) {
	cmd := exec.Command(lvx, "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	must(t, err)
	var bytes, allocs, packages int
	for _, m := range initTrace.FindAllStringSubmatch(string(out), -1) {
		for _, prefix := range ofBGP {
			if strings.HasPrefix(m[1], prefix) {
				b, errBytes := strconv.Atoi(m[2])
				n, errAllocs := strconv.Atoi(m[3])
				must(t, errBytes)
				must(t, errAllocs)
				bytes, allocs, packages = bytes+b, allocs+n, packages+1
			}
		}
	}
	t.Logf("%d packages: %d bytes in %d allocations", packages, bytes, allocs)
	if packages == 0 || bytes > bytesOfBGP || allocs > allocsOfBGP {
		t.Errorf("%d packages for BGP take %d bytes in %d allocations before main (want %d in %d at most)", packages, bytes, allocs, bytesOfBGP, allocsOfBGP)
	}
}
