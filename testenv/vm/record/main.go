// Command record writes golden data for schedulers: which real server the
// kernel's IPVS picks, packet by packet. It runs in a guest of package vm:
//
//	CGO_ENABLED=0 go build -o /tmp/record ./testenv/vm/record
//	go run ./testenv/vm/vmrun -icount -module ip_vs -tool ipvsadm -tool ip -tool nft \
//		-out pkg/sched/testdata -- /tmp/record
//
// With an argument it records only the sections whose title matches that
// regular expression.
//
// It only asks and writes down; it models nothing. What it writes is the same
// on every run: the guest's clock counts instructions, random choices have
// fixed seeds.
package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

var (
	vip    = netip.MustParseAddr("10.0.0.100")
	vip6   = netip.MustParseAddr("2001:db8::100")
	client = netip.MustParseAddr("172.16.0.0")
)

func main() {
	only := regexp.MustCompile("")
	if len(os.Args) > 1 {
		only = regexp.MustCompile(os.Args[1])
	}
	if err := run(only); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(only *regexp.Regexp) error {
	for name, record := range map[string]func(*transcript) error{
		"17-hash-more.txt": recordHashes,
		"18-leastconn.txt": recordLeastConn,
	} {
		t := &transcript{only: only}
		if err := t.head(name); err != nil {
			return err
		}
		if err := record(t); err != nil {
			os.Stdout.Write(t.Bytes())
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join("/out", name), t.Bytes(), 0o644); err != nil {
			return err
		}
		fmt.Println(name, t.Len(), "bytes")
	}
	return nil
}

// A transcript collects commands, their output and what packets did.
type transcript struct {
	bytes.Buffer
	only *regexp.Regexp // titles to record
}

func (t *transcript) printf(format string, args ...any) { fmt.Fprintf(&t.Buffer, format, args...) }

// head names what answered.
func (t *transcript) head(name string) error {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	version, err := exec.Command("ipvsadm", "--version").Output()
	if err != nil {
		return fmt.Errorf("ipvsadm: %w", err)
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(string(version), "ipvsadm v"), " ")
	t.printf("# %s  kernel %s  ipvsadm %s  (guest observed)\n", name, strings.TrimSpace(string(release)), number)
	return nil
}

// command runs a command in the current network and writes it down.
func (t *transcript) command(line string) error {
	t.printf("$ %s\n", line)
	return quietly(line)
}

// quietly runs a command.
func quietly(line string) error {
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// list writes down the table.
func (t *transcript) list() error {
	out, err := exec.Command("ipvsadm", "-ln").Output()
	if err != nil {
		return fmt.Errorf("ipvsadm -ln: %w", err)
	}
	t.printf("$ ipvsadm -ln\n%s", out)
	return nil
}

// choose sends a packet and gives the digit for who got it.
func choose(n *onearm.Net, p onearm.Packet) (string, error) {
	real, err := n.Choose(p)
	if real == 0 {
		return "-", err
	}
	return fmt.Sprint(real), err
}

// offset adds i to the last bytes of an address.
func offset(a netip.Addr, i int) netip.Addr {
	b := a.AsSlice()
	for k := len(b) - 1; i > 0; k-- {
		i += int(b[k])
		b[k] = byte(i)
		i >>= 8
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum
}
