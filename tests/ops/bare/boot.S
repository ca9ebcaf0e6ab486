/* A disk that runs a program on a processor without any system: the boot sector reads the sectors behind it, turns on
 * 64-bit mode and every vector register that the processor has, and calls start().
 *
 * Memory, all below 640 KiB: 0x1000 page tables, 0x7c00 boot sector and program (image.ld), stack below 0x80000.
 */
    .section .boot, "ax"
    .code16
    .globl boot
boot:
    ljmp $0, $1f
1:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $program_sectors, %cx
2:  movb $0x42, %ah /* BIOS: read from the disk whose number it left in dl */
    movw $packet, %si
    int $0x13
    jc halt
    addw $0x20, packet + 6
    incl packet + 8
    loop 2b
    cli

    movl $0x1000, %edi /* the first 2 MiB stand where they are */
    movl $0xc00, %ecx
    xorl %eax, %eax
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x0083, 0x3000
    movl $0x1000, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x40620, %eax /* OSXSAVE, OSXMMEXCPT, OSFXSR, PAE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx /* EFER: long mode */
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdt table_of_segments
    movl %cr0, %eax
    andl $0xfffffffb, %eax
    orl $0x80000003, %eax /* paging, protection, and no emulated coprocessor */
    movl %eax, %cr0
    ljmpl $8, $long_mode
halt:
    hlt
    jmp halt

    .code64
long_mode:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x80000, %esp
    movl $bss_begin, %edi
    movl $bss_size, %ecx
    rep stosb
    movl $0xd, %eax /* XCR0 = what the processor has of x87, SSE, AVX and AVX-512 */
    xorl %ecx, %ecx
    cpuid
    andl $0xe7, %eax
    xorl %edx, %edx
    xorl %ecx, %ecx
    xsetbv
    call start

    .balign 4
packet: /* one sector, to 0x7e0:0 at first, from sector 1 */
    .word 16, 1, 0, 0x7e0
    .quad 1
segments:
    .quad 0, 0x00209a0000000000
table_of_segments:
    .word . - segments - 1
    .long segments
    .org boot + 510
    .word 0xaa55
