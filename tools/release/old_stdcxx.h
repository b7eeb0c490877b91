// Included before all else (-include): templates that C++20's libstdc++ holds ready are compiled here, since that of
// GCC 8 (manylinux_2_28) has not all of them.
#include <bits/c++config.h>
#undef _GLIBCXX_EXTERN_TEMPLATE
#define _GLIBCXX_EXTERN_TEMPLATE 0
