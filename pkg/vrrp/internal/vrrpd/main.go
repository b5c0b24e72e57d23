// Command vrrpd runs virtual routers from a JSON file, for the tests of
// pkg/vrrp in network namespaces: a router and a gratuitous ARP announcer,
// without a data path. SIGHUP reads the file again, SIGTERM stops in an
// orderly way. It refuses to be of any other use.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/lvx-lb/lvx/pkg/vrrp"
	"github.com/mdlayher/packet"
)

func main() {
	conf := flag.String("conf", "", "JSON file with a list of instances")
	realtime := flag.Int("realtime", 0, "SCHED_RR priority of the advert thread")
	busy := flag.Int("busy", 0, "goroutines that burn CPU and allocate, as a reload would")
	ready := flag.Duration("ready", 0, "how long after a fault real servers count as asked")
	flag.Parse()
	if err := run(*conf, *realtime, *busy, *ready); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(conf string, realtime, busy int, after time.Duration) error {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	router := vrrp.NewRouter(vrrp.Options{
		Log: log, Announcer: &arp{log: log, series: map[netip.Addr]int{}}, Realtime: realtime,
		Activate:   func(i string) error { log.Info("activate", "instance", i); return nil },
		Deactivate: func(i string) { log.Info("deactivate", "instance", i) },
		Recovered: func(i string, ready func()) {
			log.Info("recovered", "instance", i)
			time.AfterFunc(after, ready)
		},
	})
	if err := load(router, conf); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for range hup {
			if err := load(router, conf); err != nil {
				log.Error("reload", "error", err)
			}
		}
	}()
	go func() {
		for range router.Events() {
		}
	}()
	for range busy {
		go burn()
	}
	return router.Run(ctx)
}

func load(router *vrrp.Router, conf string) error {
	b, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	var instances []vrrp.Instance
	if err := json.Unmarshal(b, &instances); err != nil {
		return fmt.Errorf("%s: %w", conf, err)
	}
	return router.Set(instances)
}

// burn never ends.
func burn() {
	for {
		keep := make([][]byte, 0, 1000)
		for range 1000 {
			keep = append(keep, make([]byte, 1024))
		}
		runtime.KeepAlive(keep)
	}
}

// arp announces IPv4 addresses by gratuitous ARP, as pkg/neigh does.
type arp struct {
	log *slog.Logger

	mu     sync.Mutex
	series map[netip.Addr]int // 0: withdrawn
	last   int
}

// start makes the current series of addrs a new one.
func (a *arp) start(addrs []netip.Addr) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	for _, addr := range addrs {
		a.series[addr] = a.last
	}
	return a.last
}

func (a *arp) Withdraw(_ string, addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range addrs {
		a.series[addr] = 0
	}
}

func (a *arp) Announce(iface string, addrs []netip.Addr) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		a.log.Error("announce", "error", err)
		return
	}
	conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
	if err != nil {
		a.log.Error("announce", "error", err)
		return
	}
	series := a.start(addrs)
	send := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, addr := range addrs {
			if addr.Is4() && a.series[addr] == series {
				_, _ = conn.WriteTo(gratuitous(ifi.HardwareAddr, addr), &packet.Addr{HardwareAddr: broadcast})
			}
		}
	}
	send()
	go func() {
		defer conn.Close()
		for _, pause := range []int{10, 40, 150, 800} {
			time.Sleep(time.Duration(pause) * time.Millisecond)
			send()
		}
	}()
}

var broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

func gratuitous(mac net.HardwareAddr, addr netip.Addr) []byte {
	var b []byte
	b = append(b, broadcast...)
	b = append(b, mac...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(b, mac...)
	b = append(b, addr.AsSlice()...)
	b = append(b, broadcast...)
	return append(b, addr.AsSlice()...)
}
