package testenv_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func frame(t *testing.T, dst, src net.HardwareAddr, vlan bool) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	eth := &layers.Ethernet{DstMAC: dst, SrcMAC: src, EthernetType: 0x88b5} // local experiment
	parts := []gopacket.SerializableLayer{eth}
	if vlan {
		eth.EthernetType = layers.EthernetTypeDot1Q
		parts = append(parts, &layers.Dot1Q{VLANIdentifier: 42, Priority: 3, Type: 0x88b5})
	}
	parts = append(parts, gopacket.Payload(bytes.Repeat([]byte("lvx!"), 15)))
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, parts...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestSendAndCapture(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	client, d1 := c.Host("client"), c.Host("d1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for name, vlan := range map[string]bool{"plain": false, "vlan": true} {
		t.Run(name, func(t *testing.T) {
			sent := frame(t, d1.MAC("eth0"), client.MAC("eth0"), vlan)
			in, out := tb.Capture(t, d1, "eth0"), tb.Capture(t, client, "eth0")
			if err := client.Send("eth0", sent); err != nil {
				t.Fatal(err)
			}
			same := func(f testenv.Frame) bool { return bytes.Equal(f.Data, sent) }
			f, err := in.Wait(ctx, same)
			if err != nil || f.Out {
				t.Errorf("at the receiver: out=%v, %v", f.Out, err)
			}
			if f, err = out.Wait(ctx, same); err != nil || !f.Out {
				t.Errorf("at the sender: out=%v, %v", f.Out, err)
			}
			in.Close()
			kept, err := in.Select(same)
			if err != nil || len(kept) != 1 {
				t.Errorf("%d frames, %v; want 1", len(kept), err)
			}
		})
	}
	if _, err := client.Capture("eth9"); err == nil {
		t.Error("capture on a missing interface: no error")
	}
}

func TestWritePcap(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	in := tb.Capture(t, c.Host("d1"), "eth0")
	tb.Run(t, c.Host("client"), "ping", "-c", "1", "-W", "10", "172.25.0.11")
	tb.Eventually(t, 10*time.Second, func() error { // the capture's reader may be behind
		if frames, err := in.Frames(); err != nil || len(frames) < 2 {
			return fmt.Errorf("%d frames, %v", len(frames), err)
		}
		return nil
	})
	in.Close()
	var file bytes.Buffer
	if err := in.WritePcap(&file); err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for {
		data, _, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, data)
	}
	frames, err := in.Frames()
	if err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for _, f := range frames {
		want = append(want, f.Data)
	}
	if d := cmp.Diff(want, got); d != "" || len(got) < 2 {
		t.Errorf("pcap of %d frames (-captured +file):\n%s", len(got), d)
	}
}

func TestCounters(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	client := c.Host("client")
	before, err := client.Counters("eth0")
	if err != nil {
		t.Fatal(err)
	}
	sent := frame(t, c.Host("d1").MAC("eth0"), client.MAC("eth0"), false)
	for range 10 {
		if err := client.Send("eth0", sent); err != nil {
			t.Fatal(err)
		}
	}
	after, err := client.Counters("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if d := after.Sub(before); d.TxPackets < 10 || d.TxBytes < uint64(10*len(sent)) {
		t.Errorf("counted %+v, sent 10 frames of %d bytes", d, len(sent))
	}
	if _, err := client.Counters("eth9"); err == nil {
		t.Error("missing interface: no error")
	}
}

// XDP_TX out of a director's NIC must reach the switch, in native mode: a
// program that swaps the MACs makes the director a mirror.
func TestXDPTransmit(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	client, d1 := c.Host("client"), c.Host("d1")
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: mirror()})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	tb.Do(t, d1, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, prog.FD(), unix.XDP_FLAGS_DRV_MODE)
	})
	in := tb.Capture(t, client, "eth0")
	sent := frame(t, d1.MAC("eth0"), client.MAC("eth0"), false)
	if err := client.Send("eth0", sent); err != nil {
		t.Fatal(err)
	}
	want := frame(t, client.MAC("eth0"), d1.MAC("eth0"), false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := in.Wait(ctx, func(f testenv.Frame) bool { return bytes.Equal(f.Data, want) }); err != nil {
		t.Error(err)
	}
}

// mirror sends experimental frames back and passes all others.
func mirror() asm.Instructions {
	const pass, tx = 2, 3
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Imm(asm.R0, pass),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 14),
		asm.JGT.Reg(asm.R4, asm.R3, "exit"),
		asm.LoadMem(asm.R5, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R5, 0xb588, "exit"),
		asm.LoadMem(asm.R5, asm.R2, 0, asm.Word),
		asm.LoadMem(asm.R6, asm.R2, 4, asm.Half),
		asm.LoadMem(asm.R7, asm.R2, 6, asm.Word),
		asm.LoadMem(asm.R8, asm.R2, 10, asm.Half),
		asm.StoreMem(asm.R2, 0, asm.R7, asm.Word),
		asm.StoreMem(asm.R2, 4, asm.R8, asm.Half),
		asm.StoreMem(asm.R2, 6, asm.R5, asm.Word),
		asm.StoreMem(asm.R2, 10, asm.R6, asm.Half),
		asm.Mov.Imm(asm.R0, tx),
		asm.Return().WithSymbol("exit"),
	}
}

// What comes through a port with the pass program must be whole: TCP in both
// directions, between hosts that offload checksums and such that do not.
func TestTrafficThroughPassProgram(t *testing.T) {
	c := tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1})
	for _, server := range []string{"d1", "r1"} {
		if _, err := c.Host(server).ServeWeb(":80", ":443"); err != nil {
			t.Fatal(err)
		}
	}
	for _, pair := range [][2]string{{"client", "d1"}, {"d1", "r1"}, {"client", "r1"}} {
		from, to := c.Host(pair[0]), c.Host(pair[1])
		addr := to.Addr("eth0").String()
		if got := tb.Run(t, from, "curl", "-sS", "-m", "20", "http://"+addr); got != to.Name+"\n" {
			t.Errorf("%v: %q", pair, got)
		}
		if got := tb.Run(t, from, "curl", "-sSk", "-m", "20", "https://"+addr); got != to.Name+"\n" {
			t.Errorf("%v, TLS: %q", pair, got)
		}
		const mib = 20
		got := tb.Run(t, from, "curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code} %{size_download}",
			fmt.Sprintf("http://%s/bytes/%d", addr, mib<<20))
		if want := fmt.Sprintf("%d %d", http.StatusOK, mib<<20); got != want {
			t.Errorf("%v: download %q, want %q", pair, got, want)
		}
	}
}
