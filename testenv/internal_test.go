package testenv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestOrphan(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("%d-%s", os.Getpid(), startTime(os.Getpid()))
	for name, want := range map[string]string{
		"lvxt-" + own + "-1-d1":                               "",
		"lvxt-" + own + "-1":                                  "",
		fmt.Sprintf("lvxt-%d-0-3-d1", os.Getpid()):            fmt.Sprintf("lvxt-%d-0-3", os.Getpid()), // the number was used again
		fmt.Sprintf("lvxt-%d-abc-2-a-b-c", ended.Process.Pid): fmt.Sprintf("lvxt-%d-abc-2", ended.Process.Pid),
		fmt.Sprintf("lvxt-%d-abc-2", ended.Process.Pid):       fmt.Sprintf("lvxt-%d-abc-2", ended.Process.Pid),
		"lvxt-x-y-1-d1":                                       "",
		"lvxt-1":                                              "",
		"lvxt-bpffs.lock":                                     "",
		"lvx":                                                 "",
		"somebody-1-2-3-d1":                                   "",
	} {
		got, ok := orphan(name)
		if got != want || ok != (want != "") {
			t.Errorf("orphan(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
}

func TestStartTime(t *testing.T) {
	if a, b := startTime(os.Getpid()), startTime(os.Getpid()); a == "" || a != b {
		t.Errorf("own start time %q, then %q", a, b)
	}
	// A name with brackets and blanks must not shift the fields.
	p := exec.Command("sleep", "1000")
	p.Args[0] = "a ) b"
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if startTime(p.Process.Pid) == "" {
		t.Error("no start time of a running process")
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // it was killed
	if s := startTime(p.Process.Pid); s != "" {
		t.Errorf("start time %q of a process that has ended", s)
	}
}

// auxdata is the kernel's message about a frame (struct tpacket_auxdata).
func auxdata(status uint32, tci, tpid uint16) []byte {
	b := make([]byte, unix.CmsgSpace(20))
	h := (*[16]byte)(b)
	binary.NativeEndian.PutUint64(h[0:], uint64(unix.CmsgLen(20)))
	binary.NativeEndian.PutUint32(h[8:], unix.SOL_PACKET)
	binary.NativeEndian.PutUint32(h[12:], unix.PACKET_AUXDATA)
	data := b[unix.CmsgLen(0):]
	binary.NativeEndian.PutUint32(data, status)
	binary.NativeEndian.PutUint16(data[16:], tci)
	binary.NativeEndian.PutUint16(data[18:], tpid)
	return b
}

func TestWithTag(t *testing.T) {
	frame := []byte("ddddddssssss\x08\x00payload")
	const valid, tpid = unix.TP_STATUS_VLAN_VALID, unix.TP_STATUS_VLAN_TPID_VALID
	for name, c := range map[string]struct {
		frame, oob []byte
		want       string
	}{
		"no message":   {frame, nil, string(frame)},
		"no tag":       {frame, auxdata(1, 5, 0), string(frame)},
		"802.1Q":       {frame, auxdata(valid, 42, 0), "ddddddssssss\x81\x00\x00\x2a\x08\x00payload"},
		"802.1ad":      {frame, auxdata(valid|tpid, 42, 0x88a8), "ddddddssssss\x88\xa8\x00\x2a\x08\x00payload"},
		"short frame":  {frame[:5], auxdata(valid, 42, 0), "ddddd"},
		"broken":       {frame, []byte{1, 2, 3}, string(frame)},
		"short length": {frame, auxdata(valid, 42, 0)[:20], string(frame)},
	} {
		t.Run(name, func(t *testing.T) {
			got := withTag(c.frame, c.oob)
			if string(got) != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if len(got) > 0 && &got[0] == &c.frame[0] {
				t.Error("shares the reader's buffer")
			}
		})
	}
}

func TestStandardAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := Shape{
			Directors: rapid.IntRange(0, 5).Draw(t, "directors"),
			Reals:     rapid.IntRange(0, 30).Draw(t, "reals"),
			Routed:    rapid.Bool().Draw(t, "routed"),
		}
		used := map[netip.Addr]string{VIP: "the VIP"}
		count := map[byte]int{}
		for _, h := range Standard(shape).Hosts {
			count[h.Name[0]]++
			for _, n := range h.NICs {
				a := n.Addrs[0].Addr()
				if other := used[a]; other != "" {
					t.Errorf("%s has the address of %s", h.Name, other)
				}
				used[a] = h.Name
				if n.XDPPeer != (h.Name[0] == 'd') {
					t.Errorf("%s: pass program %v", h.Name, n.XDPPeer)
				}
				if shape.Routed && n.switchName() == DefaultSwitch && h.Name != "router" && h.Gateway != routerIn {
					t.Errorf("%s has no way back to the client", h.Name)
				}
			}
		}
		want := func(n int) int { return map[bool]int{true: 2, false: n}[n == 0] }
		if count['d'] != want(shape.Directors) || count['c'] != 1 {
			t.Errorf("%+v gives %v", shape, count)
		}
	})
	var got []string
	for _, h := range Standard(Shape{Reals: 4}).Hosts {
		got = append(got, h.Name+" "+h.NICs[0].Addrs[0].String())
	}
	want := []string{
		"client 172.25.0.50/24", "d1 172.25.0.11/24", "d2 172.25.0.14/24",
		"r1 172.25.0.12/24", "r2 172.25.0.13/24", "r3 172.25.0.15/24", "r4 172.25.0.16/24",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestMACOf(t *testing.T) {
	for addrs, want := range map[string]net.HardwareAddr{
		"":                          nil,
		"172.25.0.12/24":            {2, 0, 172, 25, 0, 12},
		"fd99::1/64 172.25.0.12/24": {2, 0, 172, 25, 0, 12},
		"fd99::12:34/64":            {2, 6, 0, 0x12, 0, 0x34},
	} {
		var list []netip.Prefix
		for _, a := range strings.Fields(addrs) {
			list = append(list, netip.MustParsePrefix(a))
		}
		if got := macOf(list); !bytes.Equal(got, want) {
			t.Errorf("%q: %s, want %s", addrs, got, want)
		}
	}
}

func TestPoll(t *testing.T) {
	sorry := errors.New("not yet")
	n := 0
	count := func() error {
		if n++; n < 4 {
			return sorry
		}
		return nil
	}
	if err := Poll(t.Context(), count); err != nil || n != 4 {
		t.Errorf("%v after %d calls", err, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Poll(ctx, func() error { return sorry }); !errors.Is(err, sorry) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at the end of its time: %v", err)
	}
	n = 0
	if err := Poll(t.Context(), func() error { n++; return fmt.Errorf("never: %w", Final(sorry)) }); !errors.Is(err, sorry) || n != 1 {
		t.Errorf("final: %v after %d calls", err, n)
	}
}

func TestTail(t *testing.T) {
	for s, want := range map[string]string{
		"": "", " \n": "", "x\n": "\nx",
		strings.Repeat("a", 2000) + "bc": "\n..." + strings.Repeat("a", 1998) + "bc",
	} {
		if got := tail(s); got != want {
			t.Errorf("tail of %d bytes: %.20q, want %.20q", len(s), got, want)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":             "/proc/sys/net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/7.arp_ignore": "/proc/sys/net/ipv4/conf/eth0.7/arp_ignore",
	} {
		if got := sysctlPath(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}
