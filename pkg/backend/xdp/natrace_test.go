package xdp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// raceConnections at once, each with so many packets a way; LVX_LOAD goes on for a minute.
const (
	raceConnections = 64
	racePackets     = 60
	raceLoad        = time.Minute
)

// Two CPUs, one with what clients send, one with what reals answer, on the same
// connections at once: each packet gets where it has to, and each is counted.
func TestNATBothWaysAtOnce(t *testing.T) {
	h := newNAT(t, natService())
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(client.Addr(), uint16(20000+i)) }
	for i := range raceConnections {
		h.wantIn(natPacket{proto: lb.TCP, src: from(i), dst: web, flags: "S"}, natReal)
	}
	run := func(p natPacket, want []byte) error {
		in := p.frame()
		opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
		action, err := h.dp.Program("lvx0").Run(opts)
		if err == nil && (action != tx || !bytes.Equal(opts.DataOut, want)) {
			err = fmt.Errorf("%v > %v: action %d\n%x, want\n%x", p.src, p.dst, action, opts.DataOut, want)
		}
		return err
	}
	number := func(n int) func([]byte) {
		return func(ip []byte) { binary.BigEndian.PutUint32(ip[24:], uint32(n)) }
	}
	b := natReal.Addr().As4()
	realMAC := [6]byte{2, 0, b[0], b[1], b[2], b[3]}
	end := time.Now()
	if os.Getenv("LVX_LOAD") != "" {
		end = end.Add(raceLoad)
	}
	var all sync.WaitGroup
	var sent [2]uint64
	for way, send := range []func(i, n int) error{
		func(i, n int) error {
			p := natPacket{proto: lb.TCP, src: from(i), dst: web, flags: "A", payload: n % 5, change: number(n)}
			return run(p, translated(p.frame(), 14, p.src, natReal, directorMAC, realMAC))
		},
		func(i, n int) error {
			p := natPacket{proto: lb.TCP, src: natReal, dst: from(i), flags: "A", payload: n % 7, change: number(n)}
			return run(p, translated(p.frame(), 14, web, p.dst, directorMAC, gatewayMAC))
		},
	} {
		all.Go(func() {
			for n := 0; n < racePackets || time.Now().Before(end); n++ {
				sent[way] += raceConnections
				for i := range raceConnections {
					if err := send(i, n); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	c := h.counters0()
	t.Logf("%d packets from clients, %d from the real", sent[0], sent[1])
	if c.InPkts != sent[0]+raceConnections || c.OutPkts != sent[1] || c.Conns != raceConnections {
		t.Errorf("counted %+v", c)
	}
	conns, err := h.Connections(0)
	must(t, err)
	for _, c := range conns {
		if c.State != "ESTABLISHED" || c.Real != natReal {
			t.Errorf("%+v", c)
		}
	}
	if st, err := h.Stats(); err != nil || len(conns) != raceConnections || st.Services[0].Reals[0].Active != raceConnections {
		t.Errorf("%d connections, %+v, %v", len(conns), st.Services[0].Reals[0], err)
	}
}
