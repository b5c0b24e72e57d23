package pcapng

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

var at = time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)

// frames are a frame as it came and as it was sent.
func frames() []Packet {
	frame := make([]byte, 61)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45})
	return []Packet{
		{Time: at, Interface: "eth0", Direction: In, Data: frame, Length: 1514, Comment: "forwarded: to 192.0.2.11"},
		{Time: at, Interface: "eth1", Direction: Out, Data: frame[:60], Length: 60},
		{Time: at.Add(time.Second), Interface: "eth0", Direction: In, Data: nil, Length: 60},
	}
}

func written(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, "lvx test", 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range frames() {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, frames := range []uint64{3, 12} { // the later one holds
		if err := w.WriteDropped(at.Add(2*time.Second), "eth1", frames); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// Another implementation of the format reads what was written.
func TestReadBack(t *testing.T) {
	r, err := pcapgo.NewNgReader(bytes.NewReader(written(t)), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	if r.LinkType() != layers.LinkTypeEthernet || r.SectionInfo().Application != "lvx test" {
		t.Errorf("link type %s, made by %q", r.LinkType(), r.SectionInfo().Application)
	}
	for i, want := range frames() {
		data, info, err := r.ReadPacketData()
		if err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
		iface, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, want.Data) || info.Length != want.Length || !info.Timestamp.Equal(want.Time) || iface.Name != want.Interface {
			t.Errorf("packet %d: %d of %d bytes at %s by %s", i, len(data), info.Length, info.Timestamp, iface.Name)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last packet: %v", err)
	}
	for i, want := range []uint64{0, 12} {
		iface, err := r.Interface(i)
		if err != nil || iface.Statistics.PacketsDropped != want {
			t.Errorf("interface %d has dropped %d (%d), %v", i, iface.Statistics.PacketsDropped, want, err)
		}
	}
}

// tcpdump reads it, too.
func TestTcpdumpReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(path, written(t), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tcpdump", "-nn", "-e", "-r", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "02:00:00:00:00:02 > 02:00:00:00:00:01") {
		t.Errorf("tcpdump: %v\n%s", err, out)
	}
}

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestErrorsAreReported(t *testing.T) {
	if _, err := NewWriter(full{}, "x", 1); err == nil {
		t.Error("a capture began on a full disk")
	}
	w := &Writer{w: full{}, interfaces: map[string]uint32{}}
	if err := w.Write(Packet{Interface: "eth0"}); err == nil {
		t.Error("a packet was written on a full disk")
	}
}
