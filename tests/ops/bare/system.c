/* What tiles.c and native/runtime.c need of a system, on a processor that has none. Prints to the first serial port
 * which kernels runtime.c would take; if TILE_ISA is among them, lets tiles.c print what it found; and switches the
 * emulator off.
 *
 *   portable avx2 avx512
 *   864 tiles, 0 differ
 */
#include "guardhouse.h"
#include "kernels.h"
#include "thread_pool.h"

#include <stdarg.h>
#include <stdlib.h>

enum { SERIAL = 0x3f8, LINE_CONTROL = SERIAL + 3, LINE_STATUS = SERIAL + 5, IS_SENT = 0x40, OFF_SWITCH = 0x8900 };

/* runtime.c only has to tell which of these it would take. */
const gh_kernels gh_kernels_portable, gh_kernels_avx2, gh_kernels_avxvnni, gh_kernels_avx512;
gh_pool *gh_pool_create(int num_threads) { return num_threads < 0 ? (gh_pool *)-1 : NULL; }
void gh_pool_destroy(gh_pool *pool) { (void)pool; }
void *malloc(size_t size) { return size > 0 ? NULL : NULL; }
void free(void *memory) { (void)memory; }

static void write_port(uint16_t port, char byte) { __asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"(port)); }

static uint8_t read_port(uint16_t port) {
    uint8_t byte;
    __asm__ volatile("inb %1, %0" : "=a"(byte) : "Nd"(port));
    return byte;
}

static void start_serial_port(void) { /* 115,200 baud, 8 bits, no parity */
    write_port(LINE_CONTROL, (char)0x80);
    write_port(SERIAL, 1);
    write_port(SERIAL + 1, 0);
    write_port(LINE_CONTROL, 3);
}

static void print(const char *text) {
    for (; *text != 0; text++) {
        write_port(SERIAL, *text);
        while (!(read_port(LINE_STATUS) & IS_SENT)) {
        }
    }
}

/* Knows %d of a number that is not negative. */
int printf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    for (; *format != 0; format++) {
        char digits[12] = {*format};
        if (*format == '%') {
            format++;
            char *first = digits + sizeof digits - 1;
            int number = va_arg(arguments, int);
            do {
                *--first = (char)('0' + number % 10);
                number /= 10;
            } while (number > 0);
            print(first);
        } else {
            print(digits);
        }
    }
    va_end(arguments);
    return 0;
}

int memcmp(const void *a, const void *b, size_t count) {
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < count; i++) {
        if (x[i] != y[i]) {
            return x[i] - y[i];
        }
    }
    return 0;
}

void *memcpy(void *target, const void *source, size_t count) {
    void *end = target;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(source), "+c"(count) : : "memory");
    return target;
}

void *memset(void *target, int byte, size_t count) {
    void *end = target;
    __asm__ volatile("rep stosb" : "+D"(end), "+c"(count) : "a"(byte) : "memory");
    return target;
}

int main(void);

__attribute__((noreturn)) void start(void) {
    static const char *const names[] = {"portable", "avx2", "neon", "avxvnni", "avx512"}; /* enum gh_isa */
    __builtin_cpu_init();
    start_serial_port();
    const char *space = "";
    for (int isa = GH_ISA_PORTABLE; isa <= GH_ISA_AVX512; isa++) {
        if (gh_supports_isa(isa)) {
            print(space);
            print(names[isa]);
            space = " ";
        }
    }
    print("\n");
    if (gh_supports_isa(TILE_ISA)) {
        main();
    }
    for (;;) {
        for (const char *word = "Shutdown"; *word != 0; word++) {
            write_port(OFF_SWITCH, *word);
        }
    }
}
